package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var errRefused = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}

// A target is what a circuit dials in these tests: it counts, and answers with err.
type target struct {
	circuit
	err   error
	dials int
}

func (x *target) try(ctx context.Context) error {
	_, err := x.connect(ctx, func() (net.Conn, error) {
		x.dials++
		return nil, x.err
	})
	return err
}

// Four clients come each 10 ms. Until the fifth failure everybody dials, then one at a time, ever more seldom.
func TestCircuitHoldsAStormBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &target{err: errRefused}
		start := time.Now()
		var at []time.Duration
		for time.Since(start) < 5*time.Second {
			for range 4 {
				before := x.dials
				if err := x.try(t.Context()); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Fatalf("a client is told %v, which does not say what is wrong", err)
				}
				if x.dials > before {
					at = append(at, time.Since(start).Round(time.Millisecond))
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		var want []time.Duration
		for _, ms := range []int{0, 0, 0, 0, 10, 110, 310, 710, 1510, 2510, 3510, 4510} {
			want = append(want, time.Duration(ms)*time.Millisecond)
		}
		if !slices.Equal(at, want) {
			t.Errorf("2000 clients in 5 s dialled at %v, want %v", at, want)
		}
		if !x.isOpen() {
			t.Error("the circuit is closed")
		}
		x.err = nil
		time.Sleep(time.Second)
		for i := range 4 {
			if err := x.try(t.Context()); err != nil || x.isOpen() {
				t.Errorf("client %d after the end of the outage: %v, open %v", i, err, x.isOpen())
			}
		}
	})
}

// What must not open a circuit.
func TestCircuitStaysClosed(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for name, try := range map[string]func(x *target, n int){
		"failures with a success between them": func(x *target, n int) {
			if x.err = errRefused; n%circuitTrips == circuitTrips-1 {
				x.err = nil
			}
			x.try(t.Context())
		},
		"clients that go": func(x *target, _ int) {
			x.err = context.Canceled
			x.try(gone)
		},
		"no descriptors": func(x *target, _ int) {
			x.err = &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", syscall.EMFILE)}
			x.try(t.Context())
		},
		"no ports": func(x *target, _ int) {
			x.err = &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)}
			x.try(t.Context())
		},
	} {
		var x target
		for n := range 100 {
			try(&x, n)
		}
		if x.dials != 100 || x.isOpen() {
			t.Errorf("%s: %d of 100 dialled, open: %v", name, x.dials, x.isOpen())
		}
	}
}

// A slow probe lets nobody else try, and one whose client goes lets the next one try at once.
func TestCircuitProbesOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := &target{err: errRefused}
		for range circuitTrips {
			x.try(t.Context())
		}
		time.Sleep(circuitPause)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var mu sync.Mutex
		probes := 0
		hang := func() (net.Conn, error) {
			mu.Lock()
			probes++
			mu.Unlock()
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		var clients sync.WaitGroup
		for range 10 {
			clients.Go(func() { x.connect(ctx, hang) })
		}
		synctest.Wait()
		if probes != 1 {
			t.Errorf("%d probes at a time, want 1", probes)
		}
		var open *circuitError
		if err := x.try(t.Context()); !errors.As(err, &open) {
			t.Errorf("beside a probe a client is told %v", err)
		}
		cancel()
		clients.Wait()
		before := x.dials
		if x.try(t.Context()); x.dials != before+1 {
			t.Error("after a client that went, the next one may not try")
		}
	})
}

// A client that is turned away hears what is wrong, and when to come again.
func TestCircuitAnswers(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		good := w.dial
		for i, c := range []struct {
			err    error
			status int
		}{{errRefused, http.StatusBadGateway}, {os.ErrDeadlineExceeded, http.StatusGatewayTimeout}} {
			dials := 0
			w.dial = func(context.Context, string, string) (net.Conn, error) {
				dials++
				return nil, c.err
			}
			for n := range 100 {
				v := w.try(fmt.Sprintf("/?client_id=%d", n))
				wantRefused(t, v, "a client in an outage", c.status)
				if after := v.header.Get("Retry-After"); n < circuitTrips && after != "" || n >= circuitTrips && after != "1" {
					t.Errorf("%v: client %d is told Retry-After: %q", c.err, n, after)
				}
			}
			if dials != circuitTrips {
				t.Errorf("%v: 100 clients at once made %d dials, want %d", c.err, dials, circuitTrips)
			}
			w.wantMetric("tideover_upstream_circuit_open", "1")
			w.wantMetric(`tideover_handshakes_refused_total{reason="circuit_open"}`, fmt.Sprint((i+1)*(100-circuitTrips)))
			w.wantMetric(`tideover_handshakes_refused_total{reason="no_upstream"}`, fmt.Sprint((i+1)*circuitTrips))
			w.dial = good
			w.pass(time.Minute)
			w.client(fmt.Sprintf("/?client_id=after%d", i))
			w.wantMetric("tideover_upstream_circuit_open", "0")
		}
		lines := w.logged("upstream")
		if len(lines) != 4 {
			t.Fatalf("two outages of 100 clients each are logged as %v", lines)
		}
		for i := range 2 {
			if line := lines[2*i+1]; !strings.Contains(line.Message, "reachable again") || line.ContextMap()["turned_away"] != int64(100) {
				t.Errorf("the end of outage %d is logged as %v", i, line)
			}
		}
	})
}
