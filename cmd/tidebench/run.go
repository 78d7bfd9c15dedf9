//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"time"

	"github.com/tideover/tideover/proxy/frame"
)

// options is what one run of the load generator does.
type options struct {
	targets     []string // ws://host:port/path?query=, to which the number of the session is appended; sessions take turns
	mode        string
	conns       int
	size        int // bytes of a message
	json        bool
	inflight    int
	rate        float64 // messages a second that all clients together send; 0: as fast as answers come
	duration    time.Duration
	warmup      time.Duration
	drain       time.Duration // how long what is under way at the end may take
	settle      time.Duration
	concurrency int
	talkers     int // storm: sessions that stay
	sources     []netip.Addr
	upstreams   []string // where to serve the upstream, in the same thread; none: elsewhere
	pids        []int    // the proxy's processes
	syscalls    bool
	barrier     io.Reader // grow: told that all is set up, then waits until there is something to read or its end
	ready       io.Writer
}

// A run is one measurement: sessions against one target.
type run struct {
	options
	l        *loop
	ups      []*upstream
	tls      bool
	to       []target
	pattern  *pattern
	op       byte
	sessions []*session
	started  time.Time

	sending   bool // a received message leads to the next one (closed loop)
	underway  int  // sent and not received
	received  int64
	pings     int64
	dialling  int
	justOpen  []*session // since the run looked last
	justEnded []*session // closed as agreed
	retrying  bool       // a handshake that fails is no fault: it ends up in justEnded
	turned    int64      // sessions opened and closed, or resumed
	nextID    uint32
	next      int

	latencies []latency
	lateness  []int64 // of this process, which is in the latencies
	from      int64   // latencies of messages that are due from here on count
	before    int64   // and before here

	corrupt, broken int
	firstFault      string
}

func newRun(o options) (*run, error) {
	r := &run{options: o, op: frame.Binary, started: time.Now()}
	if o.json {
		r.op = frame.Text
	}
	for _, t := range o.targets {
		if err := r.aim(t); err != nil {
			return nil, fmt.Errorf("reading --target %s: %w", t, err)
		}
	}
	if len(r.to) == 0 {
		return nil, errors.New("no --target")
	}
	var err error
	if r.pattern, err = newPattern(o.size, o.json); err != nil {
		return nil, err
	}
	if r.l, err = newLoop(); err != nil {
		return nil, err
	}
	if o.mode == modeStorm {
		if err := r.l.putOff(); err != nil {
			r.close()
			return nil, err
		}
	}
	for _, at := range o.upstreams {
		var up *upstream
		addr, err := netip.ParseAddrPort(at)
		if err == nil {
			up, err = listenUpstream(r.l, addr)
		}
		if err != nil {
			r.close()
			return nil, err
		}
		if o.mode == modeStorm {
			up.urgent = r.talks
		}
		r.ups = append(r.ups, up)
	}
	return r, nil
}

// A target is where sessions connect to.
type target struct {
	addr       netip.AddrPort
	host, path string
}

func (r *run) aim(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "ws":
	case "wss":
		r.tls = true
	default:
		return errors.New("want ws://ADDRESS:PORT/… or wss://…")
	}
	addr, err := netip.ParseAddrPort(u.Host)
	if err != nil {
		return fmt.Errorf("want an address and a port: %w", err)
	}
	r.to = append(r.to, target{addr, u.Host, u.RequestURI()})
	return nil
}

// talks tells whether session id is one of those that a storm leaves alone.
func (r *run) talks(id uint32) bool { return int64(id) < int64(r.talkers) }

// target returns where session id connects to.
func (r *run) target(id uint32) *target { return &r.to[int(id)%len(r.to)] }

func (r *run) close() {
	for _, s := range r.sessions {
		if s.state != stateDown && s.fd >= 0 {
			s.reset()
		}
	}
	for _, up := range r.ups {
		up.close()
	}
	r.l.close()
}

// now returns nanoseconds since the run began.
func (r *run) now() int64 { return int64(time.Since(r.started)) }

// opened and over hear of a session's handshake and end, message of each message that it receives. They run inside
// the loop, and only take note.

func (r *run) opened(s *session) {
	r.dialling--
	r.justOpen = append(r.justOpen, s)
}

func (r *run) over(s *session, was state, err error) {
	if was == stateAsking {
		r.dialling--
	}
	if was == stateClosing {
		r.justEnded = append(r.justEnded, s)
		return
	}
	if was == stateAsking && r.retrying {
		r.justEnded = append(r.justEnded, s)
		return
	}
	r.broken++
	r.fault("session %d ended: %v", s.id, err)
}

func (r *run) fault(format string, args ...any) {
	if r.firstFault == "" {
		r.firstFault = fmt.Sprintf(format, args...)
	}
}

// message compares what s received with what is due, and appends to out what s sends next.
func (r *run) message(s *session, out []byte, fin bool, op byte, payload []byte) []byte {
	s.received++
	r.received++
	r.underway--
	kind, id, wantOp := byte(kindEcho), s.id, r.op
	if r.mode == modeDown {
		kind, id, wantOp = kindBroadcast, broadcastID, frame.Binary
	}
	if !fin || op != wantOp || !r.pattern.matches(payload, kind, id, s.received) {
		r.corrupt++
		r.fault("session %d, message %d: %d bytes came that were not sent so, beginning with %.60q", s.id, s.received, len(payload), payload)
	}
	if s.dueHead < len(s.due) {
		due := s.due[s.dueHead]
		if s.dueHead++; s.dueHead == len(s.due) {
			s.due, s.dueHead = s.due[:0], 0
		}
		if due >= r.from && due < r.before {
			r.latencies = append(r.latencies, latency{due, r.now() - due})
		}
	}
	if r.sending {
		r.underway++
		out = s.appendMessage(out)
	}
	return out
}

// send makes s send n messages with one write.
func (r *run) send(s *session, n int) {
	out := r.l.out[:0]
	for range n {
		out = s.appendMessage(out)
	}
	r.underway += n
	r.l.out = out[:0]
	_ = s.write(out) // an error comes as an event as well
}

// meet tells that this process is ready and serves on until all others are.
func (r *run) meet() error {
	if r.barrier == nil {
		return nil
	}
	if _, err := fmt.Fprintln(r.ready, "ready"); err != nil {
		return err
	}
	met := false
	go func() {
		var b [1]byte
		_, _ = r.barrier.Read(b[:])
		r.l.post(func() { met = true })
	}()
	ok, err := r.until(10*time.Minute, func() bool { return met || r.broken > 0 })
	if err == nil && !ok {
		err = errors.New("nobody said that all are ready")
	}
	return err
}

// call makes the upstream send broadcast number.
func (r *run) call(number uint64) {
	s := r.sessions[0]
	mask := maskOf(s.id)
	_ = s.write(frame.Append(nil, frame.Binary, appendCall(nil, number, r.size), &mask))
}

// until runs the loop until done, or for at most limit; it reports whether done came true.
func (r *run) until(limit time.Duration, done func() bool) (bool, error) {
	deadline := r.now() + int64(limit)
	for !done() {
		left := deadline - r.now()
		if left <= 0 {
			return false, nil
		}
		if err := r.l.poll(min(time.Duration(left), 100*time.Millisecond)); err != nil {
			return false, err
		}
	}
	return true, nil
}

// patience bounds steps that have no bound of their own.
const patience = 60 * time.Second

// connect opens all sessions, some at a time.
func (r *run) connect() error {
	next := 0
	dial := func() error {
		for ; next < len(r.sessions) && r.dialling < r.concurrency; next++ {
			if err := r.dial(r.sessions[next]); err != nil {
				return err
			}
		}
		return nil
	}
	for i := range r.conns {
		r.sessions = append(r.sessions, &session{run: r, id: uint32(i)})
	}
	var failed error
	limit := patience + time.Duration(r.conns)*2*time.Millisecond
	done, err := r.until(limit, func() bool {
		failed = dial()
		return failed != nil || r.broken > 0 || next == len(r.sessions) && r.dialling == 0
	})
	switch {
	case err != nil || failed != nil:
		return errors.Join(err, failed)
	case r.broken > 0:
		return fmt.Errorf("%d of %d sessions did not open; %s", r.broken, r.conns, r.firstFault)
	case !done:
		return fmt.Errorf("%d of %d sessions had not opened after %v", r.dialling+len(r.sessions)-next, r.conns, limit)
	}
	r.justOpen = r.justOpen[:0]
	return nil
}

func (r *run) dial(s *session) error {
	if err := s.dial(); err != nil {
		return err
	}
	r.dialling++
	return nil
}

// exchange makes every session send one message and waits for all echoes: proof that both legs live.
func (r *run) exchange() error {
	for _, s := range r.sessions {
		r.send(s, 1)
	}
	_, err := r.until(patience, func() bool { return r.underway == 0 || r.broken > 0 })
	return err
}
