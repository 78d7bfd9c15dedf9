package session

import (
	"container/heap"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay the one simulated session with this seed, with its trace")
	simSteps = flag.Int("sim.steps", 0, "simulate until this many inputs have been given; 0: for some seconds")
)

// TestSimulation plays sessions whose every part but the session itself is a model with bad manners: clients
// (plain, tideover.v1, without identity), upstreams, the network between, and the engine's
// queues. All chance comes from one seed for each session. What must hold is checked after each
// input (sim_check_test.go, sim_shell_test.go) and at the end of each session.
//
// It lives in package session, not in one of its own, so that the planted bugs
// (sim_bugs_test.go) can reach into the state and production code needs no hook for them.
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		s := newSim(*simSeed, nil)
		s.verbose = func(line string) { fmt.Fprintln(os.Stderr, line) }
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		return
	}
	lasts := 8 * time.Second
	if testing.Short() {
		lasts = time.Second
	}
	begin := time.Now()
	seed := uint64(begin.UnixNano())
	t.Logf("simulating from seed %d", seed)
	var sessions, steps atomic.Int64
	var group sync.WaitGroup
	for worker := range uint64(2) { // two: they share the pools of buffers
		rng := rand.New(rand.NewPCG(seed, worker))
		group.Go(func() {
			for !t.Failed() {
				if n := int(steps.Load()); n >= *simSteps && (*simSteps > 0 || time.Since(begin) > lasts) {
					return
				}
				s := newSim(rng.Uint64(), nil)
				if err := s.run(); err != nil {
					t.Errorf("%v\nreplay: go test ./proxy/session -run 'TestSimulation$' -sim.seed=%d\nthe last of its trace:\n\t%s",
						err, s.seed, strings.Join(lastOfTrace(s.seed, s.bug), "\n\t"))
				}
				sessions.Add(1)
				steps.Add(int64(s.steps))
			}
		})
	}
	group.Wait()
	t.Logf("%d sessions, %d inputs, %v", sessions.Load(), steps.Load(), time.Since(begin).Round(time.Millisecond))
}

// lastOfTrace plays a session again and returns the last lines of its trace.
func lastOfTrace(seed uint64, b *bug) (lines []string) {
	s := newSim(seed, b)
	s.verbose = func(line string) {
		if lines = append(lines, line); len(lines) == 200 {
			lines = append(lines[:0], lines[140:]...)
		}
	}
	_ = s.run()
	return lines
}

// A sim is one simulated session and its surroundings.
type sim struct {
	seed  uint64
	house *simHouse
	rng   *rand.Rand
	now   Time
	queue events
	seq   int
	steps int // inputs given to the session

	number uint64     // of the session
	yield  func(Time) // lets the other sessions of the house have their turns up to a time; nil: there are none

	cfg   Config // what the session uses
	limit Config // a copy that no planted bug can reach
	mode  Mode
	shell *simShell
	up    *simUpstream
	user  *simClient
	bug   *bug

	latency  time.Duration // one way, at most
	capacity int           // of each direction of a connection, in bytes
	calm     bool          // no more faults

	verbose func(string) // takes the trace; nil: nobody does
}

func newSim(seed uint64, b *bug) *sim { return newSimIn(&simHouse{}, 1, seed, b) }

func newSimIn(house *simHouse, number, seed uint64, b *bug) *sim {
	s := &sim{seed: seed, house: house, number: number, rng: rand.New(rand.NewPCG(seed, 1)), now: Time(time.Hour), bug: b}
	s.mode = []Mode{Keyed, Keyed, Keyed, Counted, Counted, Counted, Relay}[s.rng.IntN(7)]
	s.cfg = Config{
		Grace:           s.between(time.Second, 30*time.Second),
		ReceiptInterval: s.between(10*time.Millisecond, 500*time.Millisecond),
		CloseTimeout:    s.between(time.Second, 5*time.Second),
		MaxMessages:     1 + s.rng.IntN(30),
		MaxBytes:        50 + s.rng.IntN(5000),
		MaxMessageBytes: int64(2000 + s.rng.IntN(20000)),
		Overflow:        Overflow(s.rng.IntN(3)),
		EndOnClose:      []uint16{1000},
	}
	if s.chance(0.05) {
		s.cfg.Grace = 0
	}
	if s.chance(0.4) {
		s.cfg.AwayAfter = s.between(0, s.cfg.Grace*3/2+1)
	}
	if s.chance(0.9) {
		s.cfg.Client = Heartbeat{s.between(time.Second, 10*time.Second), 1 + s.rng.IntN(3)}
	}
	if s.chance(0.9) {
		s.cfg.Upstream = Heartbeat{s.between(time.Second, 10*time.Second), 1 + s.rng.IntN(3)}
	}
	if s.chance(0.2) { // several pings under way at once
		s.cfg.Client = Heartbeat{s.between(50*time.Millisecond, time.Second), 20}
	}
	if s.chance(0.2) {
		s.cfg.BeatMessage = []byte("beat")
	}
	s.latency = s.between(0, 80*time.Millisecond)
	s.capacity = 100 + s.rng.IntN(1<<(7+s.rng.IntN(8)))
	if s.chance(0.02) { // large windows, so that one Send is not enough
		s.cfg.MaxBytes, s.cfg.MaxMessages, s.cfg.MaxMessageBytes = 4<<20, 1000, 1<<20
		s.capacity = 1 << 20
	}
	s.shell = newShell(s)
	s.limit = s.cfg
	if b != nil && b.start != nil {
		b.start(s)
	}
	if b != nil && s.shell.ids != nil {
		s.shell.ids.bug = b.seen
	}
	s.up = newSimUpstream(s)
	s.user = newSimClient(s)
	return s
}

// run plays the session to its end.
func (s *sim) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			failed, ok := r.(simFailure)
			if !ok {
				failed = simFailure(fmt.Sprintf("%v\n%s", r, debug.Stack()))
			}
			err = fmt.Errorf("seed %d, mode %d, after %d inputs: %s", s.seed, s.mode, s.steps, failed)
		}
	}()
	s.wait(s.now)
	s.note("mode %d, config %+v", s.mode, s.cfg)
	s.shell.begin()
	s.user.connect()
	s.up.start()
	s.until(s.now.add(s.between(time.Second, 2*time.Minute)), 3000)

	s.note("calm from here on")
	s.calm = true
	s.jump(s.user, 48*time.Hour) // clocks are put right
	s.jump(s.up, 48*time.Hour)
	s.up.calm()
	s.user.calm()
	// What is under way must arrive: a slow leg may have to be given up first.
	s.until(s.now.add(s.patience()), 100_000)
	for range 100 { // small windows take their time
		if c := s.shell.core; c.state == StateLeft || !c.up.paused && !c.client.paused && len(s.up.conn.toProxy.data) < 200 {
			break
		}
		s.until(s.now.add(s.patience()), 100_000)
	}
	s.complete()

	s.note("everything stops")
	s.stop()
	s.until(s.now.add(s.patience()), 100_000)
	if !s.shell.core.Over() {
		s.fail("session is not over %v after everything has stopped: %v", s.patience(), s.shell.core.State())
	}
	s.shell.checkOver()
	return nil
}

// patience is the grace plus the longest timeouts, one after the other.
func (s *sim) patience() time.Duration {
	c := &s.limit
	find := func(h Heartbeat) time.Duration { return h.Interval * time.Duration(h.MaxMissed+3) }
	return c.Grace + 3*c.CloseTimeout + find(c.Client) + find(c.Upstream) + 2*time.Second
}

// until plays events up to a time.
func (s *sim) until(at Time, events int) {
	for len(s.queue) > 0 && s.queue[0].at <= at {
		s.wait(s.queue[0].at)
		e := heap.Pop(&s.queue).(event)
		s.now = max(s.now, e.at)
		e.do()
		if events--; events == 0 {
			if s.calm {
				s.fail("too much happens in a calm session")
			}
			break // long enough
		}
	}
	if events > 0 {
		s.wait(at)
		s.now = max(s.now, at)
	}
}

// wait lets time pass for the others.
func (s *sim) wait(at Time) {
	if s.yield != nil {
		s.yield(at)
	}
}

// after plans an event of the network, the engine or the proxy.
func (s *sim) after(d time.Duration, do func()) { s.plan(d, nil, do) }

// plan plans an event by the clock of a peer; nil: by the true one.
func (s *sim) plan(d time.Duration, peer simPeer, do func()) {
	s.seq++
	heap.Push(&s.queue, event{s.now.add(d), s.seq, peer, do})
}

// jump sets the clock of a peer: what it has planned comes later, or earlier and much of it at once.
func (s *sim) jump(peer simPeer, d time.Duration) {
	s.note("a clock jumps by %v", d)
	for i := range s.queue {
		if e := &s.queue[i]; e.peer == peer {
			e.at = max(s.now, e.at.add(-d))
		}
	}
	heap.Init(&s.queue)
}

// someJump is how far clocks jump: a little, or to another day. Backwards it is never so far that the peer would
// seem to have gone for good.
func (s *sim) someJump() time.Duration {
	if s.chance(0.5) {
		return -s.between(0, 20*time.Second)
	}
	return s.between(0, 48*time.Hour)
}

type event struct {
	at   Time
	seq  int
	peer simPeer // by whose clock it was planned
	do   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := (*q)[len(*q)-1]
	*q = (*q)[:len(*q)-1]
	return last
}

type simFailure string

// fail ends the run: something that must hold does not.
func (s *sim) fail(format string, args ...any) {
	s.note("FAILED: "+format, args...)
	panic(simFailure(fmt.Sprintf(format, args...)))
}

// note writes a line into the trace.
func (s *sim) note(format string, args ...any) {
	if s.verbose != nil {
		s.verbose(fmt.Sprintf("%12v  ", time.Duration(s.now-Time(time.Hour)).Round(time.Microsecond)) + fmt.Sprintf(format, args...))
	}
}

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

func (s *sim) between(low, high time.Duration) time.Duration {
	if high <= low {
		return low
	}
	return low + time.Duration(s.rng.Int64N(int64(high-low)))
}
