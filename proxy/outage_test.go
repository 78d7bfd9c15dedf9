package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tideover/tideover/config"
)

func TestOutage(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(1_000_000, 0).Add(time.Duration(seconds) * time.Second) }
	type step struct {
		second int
		ok     bool
		line   bool
		lasted time.Duration // for a success
		failed int           // for a success: failures of the outage; for a failure: so far
	}
	for name, steps := range map[string][]step{
		"no outage":               {{0, true, false, 0, 0}, {1, true, false, 0, 0}},
		"one failure":             {{0, false, true, 0, 1}, {2, true, true, 2 * time.Second, 1}, {3, true, false, 0, 0}},
		"once, not once a try":    {{0, false, true, 0, 1}, {1, false, false, 0, 2}, {59, false, false, 0, 3}, {59, true, true, 59 * time.Second, 3}},
		"reminder after a minute": {{0, false, true, 0, 1}, {30, false, false, 0, 2}, {60, false, true, 0, 3}, {61, false, false, 0, 4}, {120, false, true, 0, 5}, {121, true, true, 121 * time.Second, 5}},
		"flapping keeps to the minute": {
			{0, false, true, 0, 1}, {1, true, true, time.Second, 1},
			{2, false, false, 0, 1}, {3, true, false, time.Second, 1}, // no line, so none for its end
			{50, false, false, 0, 1}, {60, false, true, 0, 2}, {61, true, true, 11 * time.Second, 2},
		},
		"a later outage": {{0, false, true, 0, 1}, {1, true, true, time.Second, 1}, {100, false, true, 0, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			var o outage
			for _, s := range steps {
				if !s.ok {
					if line := o.failed(at(s.second)); line != s.line || o.failures != s.failed {
						t.Fatalf("failure in second %d: line %v, %d failures; want %v, %d", s.second, line, o.failures, s.line, s.failed)
					}
					continue
				}
				line, lasted, failed := o.reached(at(s.second))
				if line != s.line || lasted != s.lasted || failed != s.failed {
					t.Fatalf("success in second %d: line %v after %v and %d failures; want %v, %v, %d", s.second, line, lasted, failed, s.line, s.lasted, s.failed)
				}
			}
		})
	}
}

func TestOutageLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.InfoLevel)
		l := newOutageLog(zap.New(core), config.URL{Scheme: "ws", Host: "backend:9000", RawQuery: "token=secret"})
		for range 1000 {
			l.note(errUnreachable)
			l.note(fmt.Errorf("x: %w", errClientGone)) // counts for nothing
			time.Sleep(100 * time.Millisecond)
		}
		l.note(nil)
		l.note(nil)
		all := logs.All()
		if len(all) != 3 {
			t.Fatalf("1000 failures in 100 s and two successes: %d log lines, want the first, a reminder and the end: %v", len(all), all)
		}
		for i, want := range []struct {
			message    string
			turnedAway int64
		}{{all[0].Message, 1}, {all[0].Message, 601}, {"upstream reachable again", 1000}} {
			fields := all[i].ContextMap()
			if all[i].Message != want.message || fields["turned_away"] != want.turnedAway || fields["upstream"] != "ws://backend:9000" {
				t.Errorf("line %d: %s %v; want %q with turned_away %d", i, all[i].Message, fields, want.message, want.turnedAway)
			}
		}
		if after := all[2].ContextMap()["after"]; after != 100*time.Second {
			t.Errorf("the outage lasted %v by the log, want 100 s", after)
		}
	})
}

func TestClassify(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	<-late.Done()
	for _, c := range []struct {
		client context.Context
		err    error
		kind   error
		status int
	}{
		{t.Context(), io.ErrUnexpectedEOF, errUnreachable, 502},
		{t.Context(), &net.DNSError{Err: "no such host"}, errUnreachable, 502},
		{t.Context(), &net.DNSError{Err: "timeout", IsTimeout: true}, errTooSlow, 504},
		{t.Context(), os.ErrDeadlineExceeded, errTooSlow, 504},
		{t.Context(), context.DeadlineExceeded, errTooSlow, 504},
		{t.Context(), fmt.Errorf("%w: %w", errBroken, os.ErrDeadlineExceeded), errTooSlow, 504},
		{t.Context(), fmt.Errorf("%w: bad accept", errBroken), errBroken, 502},
		{t.Context(), fmt.Errorf("%w: bad chunk", errClientGone), errClientGone, 499},
		{gone, os.ErrDeadlineExceeded, errClientGone, 499},
		{gone, fmt.Errorf("%w: %w", errBroken, io.EOF), errClientGone, 499},
		{late, context.DeadlineExceeded, errTooSlow, 504},
	} {
		err := classify(errors.Is(c.client.Err(), context.Canceled), "connect", c.err)
		if !errors.Is(err, c.kind) || !errors.Is(err, c.err) || statusOf(err) != c.status {
			t.Errorf("%v: classified as %q with status %d, want %q with %d", c.err, err, statusOf(err), c.kind, c.status)
		}
	}
	if status := statusOf(fmt.Errorf("dial: %w", &refusal{Status: 401})); status != 401 {
		t.Errorf("status of a refusal with 401 is %d", status)
	}
}
