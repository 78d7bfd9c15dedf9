package engine

import (
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The loops serve sockets; what else there is goes to the portable engine, of which one kind must do.
func TestLoops(t *testing.T) {
	testEngine(t, New, map[string]pairer{"tcp": tcpPair, "unix": unixPair, "pipe": pipePair, "tls": tlsPair})
}

// The number of a closed descriptor is given to the next that is opened: who wakes a loop that has ended must not
// write to what is a stranger's connection by now.
func TestLoopsWakeNobodyAfterTheirEnd(t *testing.T) {
	e := New(Options{Loops: 1})
	ours, peer := tcpPair(t)
	defer peer.Close()
	g := e.Group(&owner{t: t}, nil)
	g.Add(ours, nil).Resume()
	within(t, "Engine.Close", e.Close)

	var strangers []int
	for range 16 {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(pair[0])
		defer unix.Close(pair[1])
		strangers = append(strangers, pair[:]...)
	}
	g.Wake(time.Millisecond)
	for _, fd := range strangers {
		if n, err := unix.Read(fd, make([]byte, 16)); err != unix.EAGAIN {
			t.Errorf("a stranger's socket was sent %d bytes (%v)", n, err)
		}
	}
}

// A witness of several legs on one loop writes down what it is told, in order. Its first Data waits to be let go, so that
// much can happen before the loop looks again.
type witness struct {
	began, held chan struct{}
	data        chan struct{} // one for each Data that has been written down, but the first
	once        sync.Once
	mu          sync.Mutex
	told        []told
}

type told struct {
	leg  Leg
	what string
}

// witnessed returns the peers of n legs. The loop is held up by the first one.
func witnessed(t *testing.T, n int) (*witness, []net.Conn) {
	e := New(Options{Loops: 1})
	t.Cleanup(e.Close)
	w := &witness{began: make(chan struct{}), held: make(chan struct{}), data: make(chan struct{}, n)}
	var peers []net.Conn
	for range n {
		ours, peer := tcpPair(t)
		t.Cleanup(func() { peer.Close() })
		e.Group(w, nil).Add(ours, nil).Resume()
		peers = append(peers, peer)
	}
	peers[0].Write([]byte("wait"))
	<-w.began
	return w, peers
}

func (w *witness) write(leg Leg, what string) {
	w.mu.Lock()
	w.told = append(w.told, told{leg, what})
	w.mu.Unlock()
}

// sofar is what has been written down.
func (w *witness) sofar() []told {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.told)
}

func (w *witness) Expect(leg Leg, before int) { w.write(leg, fmt.Sprint("expect after ", before)) }
func (w *witness) Lost(leg Leg, _ error)      { w.write(leg, "lost") }
func (*witness) Writable(Leg)                 {}
func (*witness) Tick()                        {}
func (*witness) Over()                        {}
func (w *witness) Data(leg Leg, b []byte) int {
	w.write(leg, "data")
	first := false
	w.once.Do(func() {
		first = true
		close(w.began)
		<-w.held
	})
	if !first {
		w.data <- struct{}{}
	}
	return len(b)
}

// A loop with several legs to serve says so one leg ahead, and then before it reads.
func TestLoopsForesee(t *testing.T) {
	const legs = 5
	w, peers := witnessed(t, 1+legs)
	for _, peer := range peers[1:] {
		peer.Write([]byte("x"))
	}
	close(w.held)
	for range legs {
		<-w.data
	}
	all, ahead := w.sofar(), 0
	for i, s := range all {
		if s.what != "data" {
			continue
		}
		if i == 0 || all[i-1] != (told{s.leg, "expect after 0"}) {
			t.Errorf("step %d of %v: data that were not expected", i, all)
		}
		if slices.Contains(all[:i], told{s.leg, "expect after 1"}) {
			ahead++
		}
	}
	if ahead < legs-2 { // not the first of a batch, and there may be two batches
		t.Errorf("%d of %d legs were foreseen while another one was served: %v", ahead, legs, all)
	}
}

// When hundreds are lost at once, who still talks does not wait until all of them are told.
func TestLossesLetTalkersPass(t *testing.T) {
	const lost = 500
	w, peers := witnessed(t, 2+lost)
	for _, peer := range peers[2:] {
		peer.(*net.TCPConn).SetLinger(0)
		peer.Close()
	}
	peers[1].Write([]byte("x"))
	close(w.held)
	<-w.data
	losses, before := 0, 0
	for _, s := range w.sofar() {
		switch s.what {
		case "lost":
			losses++
		case "data":
			before = losses
		}
	}
	if before > 4*turnQueue {
		t.Errorf("%d of %d losses were told before a message that had come just behind them, want %d at most", before, lost, 4*turnQueue)
	}
}

func TestLegQueue(t *testing.T) {
	var q legQueue
	var legs [1000]loopLeg
	next, taken := 0, 0
	for round := range 3000 {
		for range round % 7 {
			if next < taken+len(legs) {
				q.add(&legs[next%len(legs)])
				next++
			}
		}
		got := q.take(nil, 3)
		if want := min(3, next-taken); len(got) != want {
			t.Fatalf("round %d: took %d legs, want %d", round, len(got), want)
		}
		for _, l := range got {
			if l != &legs[taken%len(legs)] {
				t.Fatalf("round %d: leg %d is out of turn", round, taken)
			}
			taken++
		}
		if q.len() != next-taken || len(q.legs) > 2*q.len()+4 {
			t.Fatalf("round %d: %d of %d wait, in %d places", round, q.len(), next-taken, len(q.legs))
		}
	}
	if next-taken > len(legs) || taken < 5000 {
		t.Fatalf("added %d, took %d", next, taken)
	}
}

// Of a group that has lost its legs, the loop's queue may list some still. Whoever moved into its room by then, perhaps on
// another loop, would be served by both.
func TestGroupsLeaveAfterTheirQueuedLegs(t *testing.T) {
	lp := new(loop)
	groups := make([]loopGroup, 200)
	for i := range groups {
		g := &groups[i]
		for range i % 4 {
			lp.queue.add(&g.first[0])
		}
		g.released = true
		lp.release(g)
	}
	left := 0
	for range len(groups) {
		for g := lp.limbo.take(&lp.queue); g != nil; g = lp.limbo.take(&lp.queue) {
			if g != &groups[left] {
				t.Fatalf("group %d leaves out of turn", left)
			}
			if slices.Contains(lp.queue.legs, &g.first[0]) {
				t.Fatalf("group %d leaves, and a leg of it is in the queue", left)
			}
			left++
		}
		lp.queue.take(nil, 3)
	}
	if left != len(groups) {
		t.Errorf("%d groups left, want %d", left, len(groups))
	}
}
