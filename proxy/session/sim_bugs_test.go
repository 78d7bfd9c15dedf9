package session

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// A bug is planted into a simulated session: by tampering with its state between two inputs, with its
// effects on their way to the shell, or with what it is told.
type bug struct {
	start        func(*sim)
	attach       func(*sim)      // before Attach
	after        func(*sim)      // after each input, before its effects
	effects      func(*sim)      // before effects are carried out
	lost         func(*sim, Leg) // instead of ClientLost
	stale        func(*sim)      // instead of news of a closed leg
	muteWritable bool
	muteBlocked  bool
	mutePressure bool
	seen         func(d *simIDs, key string, now Time) bool // instead of Seen
}

// plantedBugs are what the simulation must be able to find: at least one for each thing that it
// claims to check.
var plantedBugs = []struct {
	invariant string
	bugs      map[string]*bug
}{
	{"at least once, in order, no loss (plain clients)", map[string]*bug{
		"one pong counts as a receipt": {after: func(s *sim) {
			if c := &s.shell.core.client; c.id != 0 && s.mode == Keyed && c.pings > 0 && c.pongs == c.pings {
				s.shell.core.receipt(c.snap)
			}
		}},
		"what was sent counts as received": {attach: func(s *sim) {
			w := &s.shell.core.win
			w.trim(max(w.base, w.high))
		}},
		"a send is lost": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Send && s.chance(0.01) })
		}},
		"two sends change places": {effects: func(s *sim) {
			l := s.shell.fx.List
			for i := 1; i < len(l); i++ {
				if l[i].Kind == Send && l[i-1].Kind == Send && l[i].Leg == l[i-1].Leg {
					l[i], l[i-1] = l[i-1], l[i]
					return
				}
			}
		}},
		"the end of the upstream empties the window": {after: func(s *sim) {
			if c := s.shell.core; c.up.ended && c.state == StateAway {
				c.win.clear()
			}
		}},
		"what is dropped is not counted": {after: func(s *sim) { s.shell.core.Stats.Dropped = 0 }},
	}},
	{"exactly once, in order (tideover.v1)", map[string]*bug{
		"a client message is counted twice": {attach: func(s *sim) { s.shell.core.received++ }},
		"a gap is not told": {effects: func(s *sim) {
			for i := range s.shell.fx.List {
				if e := &s.shell.fx.List[i]; e.Kind == Send && e.Leg != Upstream {
					if at := bytes.Index(e.Data, []byte("\x1e"+`{"type":"gap"`)); at >= 0 {
						e.Data = e.Data[:at-2]
					}
				}
			}
		}},
		"nothing is acknowledged": {after: func(s *sim) {
			if k := s.shell.core.client.counted; k != nil {
				k.ackAt = 0
			}
		}},
		"a resume may claim anything": {after: func(s *sim) { s.shell.core.win.high = 1 << 40 }},
		"an escape is forgotten":      {after: func(s *sim) { s.shell.core.up.rx.fresh = false }},
	}},
	{"no id twice upstream; marked after the hand-over", map[string]*bug{
		"ids are marked before the hand-over": {effects: func(s *sim) {
			slices.SortStableFunc(s.shell.fx.List, func(a, b Effect) int { return int(b.Kind/Mark*Mark) - int(a.Kind/Mark*Mark) })
		}},
		"ids are not marked": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Mark && s.chance(0.1) })
		}},
		"ids are not looked up": {seen: func(*simIDs, string, Time) bool { return false }},
		"ids live for ever":     {seen: func(d *simIDs, key string, now Time) bool { _, ok := d.marked[key]; return ok }},
		"ids die before their time": {seen: func(d *simIDs, key string, now Time) bool {
			at, ok := d.marked[key]
			return ok && now-at < Time(d.ttl)/2
		}},
	}},
	{"whole messages upstream", map[string]*bug{
		"half a message goes up when its client drops": {lost: func(s *sim, leg Leg) {
			s.shell.fx.send(Upstream, bytes.Clone(s.shell.core.hold))
			s.shell.core.ClientLost(s.now, leg, Broken, &s.shell.fx)
		}},
	}},
	{"valid WebSocket on both legs", map[string]*bug{
		"a ping goes into the middle of a frame": {effects: func(s *sim) {
			if c := s.shell.core; c.client.id != 0 && !c.client.blocked && !c.win.atFrame() {
				s.shell.fx.send(c.client.id, []byte{0x89, 0})
			}
		}},
		"pings are not answered": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Send && e.Data[0] == 0x8A })
		}},
		"buffers are used again too early": {effects: func(s *sim) {
			if b := s.shell.core.win.buf; b != nil {
				putBuffer(b)
				stealBuffers()
			}
		}},
	}},
	{"legs: fenced, closed, read as there is room", map[string]*bug{
		"the loss of an old leg counts": {stale: func(s *sim) {
			c := s.shell.core
			c.ClientLost(s.now, c.client.id, Broken, &s.shell.fx)
		}},
		"a leg is closed before its last words": {effects: func(s *sim) {
			l := s.shell.fx.List
			for i := 1; i < len(l); i++ {
				if l[i].Kind == Close && l[i-1].Kind == Send && l[i].Leg == l[i-1].Leg {
					l[i], l[i-1] = l[i-1], l[i]
				}
			}
		}},
		"a superseded leg is not closed": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool {
				return e.Kind == Close && e.Leg != Upstream && s.shell.core.state == StateAttached && e.Leg != s.shell.core.client.id
			})
		}},
		"a backlog is not told":       {muteBlocked: true},
		"a backlog's end is not told": {muteWritable: true},
		"reading is not paused": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Pause })
		}},
		"reading is not resumed": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Resume && s.chance(0.5) })
		}},
		"a client that is not read is found dead": {after: func(s *sim) {
			if c := s.shell.core; c.client.paused && s.chance(0.05) {
				c.client.beat.missed = 100
				c.Probed(s.now, c.client.id, 0, false, &s.shell.fx)
			}
		}},
	}},
	{"events are balanced", map[string]*bug{
		"away is told twice": {effects: func(s *sim) { s.repeatEvent(Away) }},
		"superseding is told as away": {effects: func(s *sim) {
			for _, e := range s.shell.fx.List {
				if e.Kind == Close && e.Leg != Upstream && s.shell.core.state == StateAttached {
					s.shell.fx.emit(Away)
					return
				}
			}
		}},
		"reconnected is not told": {effects: func(s *sim) { s.dropEvent(Reconnected) }},
		"left is not told":        {effects: func(s *sim) { s.dropEvent(Left) }},
		"joined is told late": {effects: func(s *sim) {
			if c := s.shell.core; c.legs == 1 && c.state == StateAttached {
				s.dropEvent(Joined)
			}
		}},
	}},
	{"memory accounted is held, never above the limits", map[string]*bug{
		"pressure is ignored":             {mutePressure: true},
		"the window's limits are ignored": {start: func(s *sim) { s.cfg.MaxBytes *= 4; s.cfg.MaxMessages *= 4 }},
		"long messages are taken":         {start: func(s *sim) { s.cfg.MaxMessageBytes *= 4 }},
		"memory is not accounted": {after: func(s *sim) {
			if s.shell.core.client.id != 0 {
				s.shell.core.client.replies.set(make([]byte, 0, 64<<10))
			}
		}},
		"buffers stay with a session that is over": {after: func(s *sim) {
			if c := s.shell.core; c.Over() && cap(c.win.buf) == 0 {
				c.win.buf = getBuffer(64 << 10)
			}
		}},
	}},
	{"every session ends in time", map[string]*bug{
		"the grace does not end": {after: func(s *sim) {
			if c := s.shell.core; c.graceAt != 0 {
				c.graceAt += 1e12
			}
		}},
		"a Close is waited for without end": {after: func(s *sim) { s.shell.core.up.closeAt = 0 }},
		"a silent client is never found": {after: func(s *sim) {
			s.shell.core.client.beat.missed, s.shell.core.client.beat.silent = 0, 0
		}},
		"a timer fires for ever": {after: func(s *sim) {
			if c := s.shell.core; c.up.beat.at != 0 && !c.up.ended && s.chance(0.05) {
				c.up.beat.at = s.now - 1
			}
		}},
		"a session is not forgotten": {effects: func(s *sim) {
			s.dropEffect(func(e *Effect) bool { return e.Kind == Forget })
		}},
	}},
}

// enough inputs must do for a planted bug to be found.
const enough = 300_000

// With -v it ends with a table of what was found and how soon.
func TestSimulationFindsPlantedBugs(t *testing.T) {
	var mu sync.Mutex
	var table []string
	t.Run("planted", func(t *testing.T) {
		for _, group := range plantedBugs {
			for name, b := range group.bugs {
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					steps := 0
					for seed := uint64(1); steps < enough; seed++ {
						s := newSim(seed, b)
						err := s.run()
						steps += s.steps
						if err != nil {
							_, what, _ := strings.Cut(err.Error(), "inputs: ")
							mu.Lock()
							table = append(table, fmt.Sprintf("%-48s | %-46s | %8d | %7d | %.100s", group.invariant, name, seed, steps, what))
							mu.Unlock()
							return
						}
					}
					t.Errorf("not found in %d inputs", steps)
				})
			}
		}
	})
	slices.Sort(table)
	t.Logf("%d planted bugs are found:\n%-48s | %-46s | %8s | %7s | %s\n%s", len(table), "what must hold", "the bug", "sessions", "inputs", "found as", strings.Join(table, "\n"))
}

// The tools of the trade.

func (s *sim) dropEffect(which func(*Effect) bool) {
	s.shell.fx.List = slices.DeleteFunc(s.shell.fx.List, func(e Effect) bool { return which(&e) })
}

func (s *sim) dropEvent(ev Event) {
	s.dropEffect(func(e *Effect) bool { return e.Kind == Emit && e.Event == ev })
}

func (s *sim) repeatEvent(ev Event) {
	for _, e := range s.shell.fx.List {
		if e.Kind == Emit && e.Event == ev {
			s.shell.fx.emit(ev)
			return
		}
	}
}
