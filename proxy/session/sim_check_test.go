package session

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/tideover/tideover/proxy/dedup"
	"github.com/tideover/tideover/proxy/resume"
)

// simIDs is the Deduper of the simulation: the real reader of ids, the real cache, and a list of
// the ids by name for the model's own bookkeeping.
type simIDs struct {
	path  dedup.Path
	cache *dedup.Cache
	names map[dedup.ID]string
	ttl   time.Duration

	perSession bool            // dedup.scope: session, for ids that several sessions share
	seen       map[string]Time // of each id, when a message of a client with it was taken
	carried    map[string]Time // and when the upstream was handed it

	bug    func(d *simIDs, key string, now Time) bool // planted
	marked map[string]Time                            // for it
}

func newSimIDs(s *sim) *simIDs {
	path, err := dedup.ParsePath("id")
	if err != nil {
		panic(err)
	}
	ttl := s.between(time.Second, time.Minute)
	return &simIDs{path: path, cache: dedup.New(1<<20, ttl), names: map[dedup.ID]string{}, ttl: ttl,
		seen: map[string]Time{}, carried: map[string]Time{}, marked: map[string]Time{}}
}

// name makes an id known.
func (d *simIDs) name(key string) {
	id, ok := d.path.Find([]byte(fmt.Sprintf(`{"id":%q}`, key)))
	if !ok {
		panic("no id in " + key)
	}
	d.names[id] = key
}

func (d *simIDs) Find(json []byte) (dedup.ID, bool) { return d.path.Find(json) }
func (d *simIDs) Seen(session uint64, id dedup.ID, now Time) bool {
	if d.bug != nil {
		return d.bug(d, d.key(session, id), now)
	}
	return d.cache.Seen(d.scope(session), id, int64(now))
}

func (d *simIDs) scope(session uint64) uint64 {
	if d.perSession {
		return session
	}
	return 0
}

// key is an id in its scope, by name.
func (d *simIDs) key(session uint64, id dedup.ID) string {
	if d.perSession {
		return fmt.Sprintf("%d/%s", session, d.names[id])
	}
	return d.names[id]
}

// mark is what the shell does for an effect Mark.
func (d *simIDs) mark(session uint64, id dedup.ID, now Time) {
	d.cache.Mark(d.scope(session), id, int64(now))
	d.marked[d.key(session, id)] = now
}

// took keeps the books of what the session has consumed of a leg, by a reading of its own:
// what must go up follows from it.
func (h *simShell) took(leg *shellLeg, b []byte, alive bool) {
	s := h.sim
	if leg.id == Upstream {
		frames, _ := h.consumed.feed(b)
		for _, f := range frames {
			if f.op == 9 {
				leg.pings = append(leg.pings, string(f.payload))
			}
		}
		h.down += len(h.consumed.messages)
		h.consumed.messages = nil
		return
	}
	if leg.stopped {
		return
	}
	frames, err := leg.taken.feed(b)
	for _, f := range frames {
		switch {
		case f.op == 9:
			leg.pings = append(leg.pings, string(f.payload))
		case f.op == 10 && len(f.payload) == 16 && binary.BigEndian.Uint64(f.payload) == leg.nonce:
			if n := binary.BigEndian.Uint64(f.payload[8:]); n <= uint64(len(leg.asked)) {
				leg.pongs = max(leg.pongs, n)
			}
		}
	}
	messages := leg.taken.messages
	leg.taken.messages = nil
	for _, m := range messages {
		body := m.body
		if s.mode == Counted && m.text && strings.HasPrefix(body, "\x1e") {
			if body = body[1:]; !strings.HasPrefix(body, "\x1e") {
				if _, _, err := resume.Parse([]byte(body)); err != nil {
					leg.stopped = true
					return
				}
				continue
			}
		}
		if !alive {
			continue
		}
		h.received++
		if h.ids != nil && m.text {
			if id, ok := h.ids.Find([]byte(body)); ok {
				key := h.ids.key(s.number, id)
				if at, ok := h.ids.seen[key]; ok && s.now-at < Time(h.ids.ttl) {
					h.duplicates++
					continue
				}
				h.ids.seen[key] = s.now
			}
		}
		h.want = append(h.want, body)
	}
	leg.stopped = err != nil || leg.taken.closed
}

// check is run after each input, once its effects have been carried out.
func (h *simShell) check() {
	s, c := h.sim, h.core
	if h.handed != len(h.want) {
		s.fail("the upstream has been handed %d messages, must have %d", h.handed, len(h.want))
	}
	if s.mode == Counted && c.received != h.received {
		s.fail("the session counts %d messages of its client, it took %d", c.received, h.received)
	}
	if (c.state == StateAttached) != (c.client.id != 0) {
		s.fail("state %v with client leg %d", c.state, c.client.id)
	}
	for id, leg := range h.legs {
		if open := !leg.closed && !leg.lost; open && id != Upstream && id != c.client.id {
			s.fail("%s is open and nobody's", legName(id))
		} else if open && (id != Upstream || c.state != StateFresh) && leg.reading == c.Paused(id) {
			s.fail("%s is being read: %v, paused: %v", legName(id), leg.reading, c.Paused(id))
		}
	}
	h.checkEvents()
	h.checkLimits()
	if c.win.base > 0 && c.state != StateLeft && c.Stats.Dropped == 0 && s.mode != Relay && uint64(s.user.count()) < c.win.base {
		s.fail("%d messages count as received, the client has %d", c.win.base, s.user.count())
	}
	if n := &c.Stats; s.mode != Relay && (n.Up != h.received || uint64(n.Duplicates) != h.duplicates) || uint64(n.Resumes) != h.resumes || uint64(n.Supersedes) != h.supersedes {
		s.fail("counted: %+v", *n)
	}
	if s.steps%8 == 0 {
		h.checkMemory()
	}
}

func (h *simShell) checkEvents() {
	s, c := h.sim, h.core
	if h.forgotten != (c.state == StateLeft) {
		s.fail("state %v, forgotten: %v", c.state, h.forgotten)
	}
	if s.mode == Relay || len(h.events) == 0 {
		if s.mode != Relay && c.state != StateFresh && c.legs > 0 {
			s.fail("attached, and nobody has joined")
		}
		return
	}
	last := h.events[len(h.events)-1]
	held := s.limit.AwayAfter > 0
	switch c.state {
	case StateAttached:
		if last != Joined && last != Reconnected {
			s.fail("attached after %v", h.events)
		}
	case StateAway:
		if last != Away && !held || held && last == Away && s.now < c.since.add(s.limit.AwayAfter) {
			s.fail("away since %v, after %v", c.since, h.events)
		}
		if c.graceAt != c.since.add(s.limit.Grace) {
			s.fail("away since %v, and the grace ends at %v", c.since, c.graceAt)
		}
	case StateLeft:
		if last != Left {
			s.fail("left after %v", h.events)
		}
	}
}

// checkLimits holds the window and the unfinished message against the configuration.
func (h *simShell) checkLimits() {
	s, c := h.sim, h.core
	whole := c.win.messages()
	all := whole
	if c.win.partial() {
		all++
	}
	if s.mode == Relay {
		if c.win.len() > transitBytes+batchSize+200 {
			s.fail("%d bytes in transit", c.win.len())
		}
		return
	}
	if whole > s.limit.MaxMessages || all > 1 && c.win.len() > s.limit.MaxBytes {
		s.fail("window of %d messages, %d bytes; allowed %d and %d", all, c.win.len(), s.limit.MaxMessages, s.limit.MaxBytes)
	}
	most := int(s.limit.MaxMessageBytes) + 16
	if c.win.len() > max(s.limit.MaxBytes, most) || len(c.hold) > most {
		s.fail("a message of %d bytes (down) or %d (up) is held, allowed are %d", c.win.len(), len(c.hold), most)
	}
}

// checkMemory compares Held with all buffers that can be reached from the session.
func (h *simShell) checkMemory() {
	total := reachable(reflect.ValueOf(h.core).Elem())
	held := h.core.Held()
	const small = 2*(maxReplies+256) + 1024 // pongs of both legs, a welcome, a Close
	if total < held || total > held+small {
		h.sim.fail("%d bytes accounted, %d held", held, total)
	}
	if h.core.Over() && total > small {
		h.sim.fail("%d bytes held by a session that is over", total)
	}
}

// reachable adds up the room of every buffer in a struct.
func reachable(v reflect.Value) (n int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			n += reachable(v.Field(i))
		}
	case reflect.Pointer: // the session's own, but not what it shares
		if t := v.Type().Elem(); !v.IsNil() && (t == reflect.TypeFor[stash]() || t == reflect.TypeFor[[]byte]()) {
			return reachable(v.Elem())
		}
	case reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Len()
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return v.Cap()
		}
	}
	return n
}

// complete is checked at the end of a calm phase: everything has arrived.
func (s *sim) complete() {
	h, c := s.shell, s.shell.core
	if c.state == StateLeft {
		if !c.Over() {
			s.fail("the session has left and is not over")
		}
		return
	}
	if c.state != StateAttached {
		s.fail("a calm session is %v", c.state)
	}
	if c.up.ended {
		s.fail("the upstream has ended %v ago, and the client was not told", s.patience())
	}
	if c.Paused(Upstream) || c.Paused(c.client.id) {
		s.fail("not read: upstream %v, client %v", c.Paused(Upstream), c.Paused(c.client.id))
	}
	if n := s.user.count(); n != h.down && (s.mode == Counted || n > h.down || c.Stats.Dropped == 0) {
		s.fail("the upstream has sent %d messages, the client has %d", h.down, n)
	}
	if s.mode != Relay && (c.win.len() > 0 || c.win.messages() > 0) {
		s.fail("%d messages, %d bytes still wait for their receipt", c.win.messages(), c.win.len())
	}
	if held := c.Held(); held > 0 && c.client.rx.stash == nil && c.up.rx.stash == nil && len(c.hold) == 0 {
		s.fail("an idle session holds %d bytes", held)
	}
	if n := &c.Stats; n.Dropped == 0 && (n.Down != uint64(h.down) || n.Up != h.received || s.mode != Relay && n.Receipts != n.Down) {
		s.fail("the upstream has sent %d messages, counted: %+v", h.down, *n)
	}
	for id, leg := range h.legs {
		if id != Upstream && id != c.client.id {
			continue
		}
		if len(leg.pings) > 0 {
			s.fail("%d pings of %s are not answered", len(leg.pings), legName(id))
		}
	}
	s.user.complete()
}

// checkOver is the last check.
func (h *simShell) checkOver() {
	h.checkMemory()
	if next := h.core.Next(); next != 0 {
		h.sim.fail("over, and Next is %v", next)
	}
	for id, leg := range h.legs {
		if !leg.closed && !leg.lost {
			h.sim.fail("over, and %s is still open", legName(id))
		}
	}
}

// stale tells the session news of a leg that it has closed: they must mean nothing.
func (h *simShell) stale(leg *shellLeg) {
	s := h.sim
	h.enter("news of %s, which was closed", legName(leg.id))
	if s.bug != nil && s.bug.stale != nil {
		s.bug.stale(s)
		h.leave()
		return
	}
	switch s.rng.IntN(4) {
	case 0:
		h.core.ClientLost(s.now, leg.id, Broken, &h.fx)
	case 1:
		b := bytes.Clone(build(1, true, "stale", testKey))
		if n := h.core.ClientBytes(s.now, leg.id, b, &h.fx); n != len(b) {
			s.fail("%d bytes of a closed leg were kept", len(b)-n)
		}
	case 2:
		h.core.Blocked(leg.id)
		h.core.Writable(s.now, leg.id, &h.fx)
	case 3:
		h.core.Probed(s.now, leg.id, 0, true, &h.fx)
	}
	if len(h.fx.List) > 0 {
		s.fail("it led to %v", h.fx.List[0].Kind)
	}
	h.leave()
}
