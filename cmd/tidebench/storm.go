//go:build linux

package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// stormStep is how many clients are dropped, or dial, between two looks at the others.
const stormStep = 8

// storm resets all sessions but the first few, as fast as it can, and counts how long each takes to be back. The few talk at a
// fixed rate before and meanwhile, and are served first (loop.putOff), so that they are not late for reasons that are not
// the proxy's. A client whose handshake fails tries again after up to a second, at random.
func (r *run) storm(res *result) error {
	if r.rate <= 0 || r.talkers < 1 || r.talkers >= len(r.sessions) {
		return fmt.Errorf("a storm of %d sessions with %d talkers at a rate of %v: want a rate, and fewer talkers than sessions", len(r.sessions), r.talkers, r.rate)
	}
	talkers, dropped := r.sessions[:r.talkers], r.sessions[r.talkers:]
	step := r.paced(&pace{start: r.now(), rate: r.rate}, talkers)
	r.from, r.before = r.now()+int64(r.warmup), math.MaxInt64
	for end := r.from + int64(r.duration); (r.now() < end || len(r.latencies) == 0) && r.broken == 0; {
		if err := step(); err != nil {
			return err
		}
	}
	start, err := r.read(nil)
	if err != nil {
		return err
	}
	res.Latency, res.Lateness, r.latencies = spreadOf(taken(r.latencies)), spreadOf(r.lateness), nil
	// Only what is due after the drop counts, not what was under way.
	at := r.now()
	r.from, r.lateness = at, nil
	for i, s := range dropped {
		s.reset()
		s.state = stateDown
		if i%stormStep != 0 {
			continue
		}
		if err := step(); err != nil {
			return err
		}
	}
	r.retrying = true
	var away []int64
	next := 0
	again := map[*session]int64{} // when to try again
	for limit := at + int64(patience); (len(away) < len(dropped) || len(r.latencies) == 0) && r.broken == 0 && r.now() < limit; {
		for range min(stormStep, len(dropped)-next) {
			if err := r.dial(dropped[next]); err != nil {
				return err
			}
			next++
		}
		for s, when := range again {
			if r.now() < when {
				continue
			}
			delete(again, s)
			if err := r.dial(s); err != nil {
				return err
			}
		}
		if err := step(); err != nil {
			return err
		}
		now := r.now()
		for range r.justOpen {
			away = append(away, now-at)
		}
		for _, s := range r.justEnded {
			res.Storm.Refusals++
			again[s] = now + rand.Int64N(int64(time.Second))
		}
		r.justOpen, r.justEnded = r.justOpen[:0], r.justEnded[:0]
	}
	r.before = r.now()
	end, err := r.read(nil)
	if err != nil {
		return err
	}
	res.between(start, end)
	res.Messages *= 2
	res.Sessions = int64(len(away))
	if len(away) < len(dropped) {
		r.broken += len(dropped) - len(away)
		r.fault("%d clients were not back after %v", len(dropped)-len(away), patience)
		return nil
	}
	if err := r.finish(); err != nil {
		return err
	}
	res.Storm.Away, res.Storm.Latency, res.Storm.Lateness = spreadOf(away), spreadOf(taken(r.latencies)), spreadOf(r.lateness)
	return r.exchange()
}
