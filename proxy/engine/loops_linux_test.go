package engine

import (
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
	g := e.Group(&owner{t: t})
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

// A fortuneTeller writes down what it is told to expect, and what comes.
type fortuneTeller struct {
	echo
	held chan struct{} // the first Data waits for it
	once sync.Once
	mu   sync.Mutex
	told []saying
	data chan struct{}
}

type saying struct {
	leg    Leg
	before int // -1: Data itself
}

func (f *fortuneTeller) say(s saying) {
	f.mu.Lock()
	f.told = append(f.told, s)
	f.mu.Unlock()
}

func (f *fortuneTeller) Expect(leg Leg, before int) { f.say(saying{leg, before}) }

func (f *fortuneTeller) Data(leg Leg, b []byte) int {
	f.say(saying{leg, -1})
	f.once.Do(func() { <-f.held })
	f.data <- struct{}{}
	return len(b)
}

// A loop with several legs to serve says so one leg ahead, and then before it reads.
func TestLoopsForesee(t *testing.T) {
	const legs = 5
	e := New(Options{Loops: 1})
	defer e.Close()
	f := &fortuneTeller{held: make(chan struct{}), data: make(chan struct{}, 1+legs), echo: echo{lost: make(chan error, 1+legs)}}
	var peers []net.Conn
	for range 1 + legs {
		ours, peer := tcpPair(t)
		defer peer.Close()
		e.Group(f).Add(ours, nil).Resume()
		peers = append(peers, peer)
	}
	peers[0].Write([]byte("wait"))
	for begun := false; !begun; time.Sleep(time.Millisecond) {
		f.mu.Lock()
		begun = len(f.told) > 0 && f.told[len(f.told)-1].before < 0
		f.mu.Unlock()
	}
	for _, peer := range peers[1:] {
		peer.Write([]byte("x"))
	}
	close(f.held)
	for range 1 + legs {
		<-f.data
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ahead := 0
	for i, s := range f.told {
		if s.before >= 0 {
			continue
		}
		if i == 0 || f.told[i-1] != (saying{s.leg, 0}) {
			t.Errorf("step %d of %v: data that were not expected", i, f.told)
		}
		if slices.Contains(f.told[:i], saying{s.leg, 1}) {
			ahead++
		}
	}
	if ahead < legs-2 { // not the first of a batch, and there may be two batches
		t.Errorf("%d of %d legs were foreseen while another one was served: %v", ahead, legs, f.told)
	}
}

// A crowd counts those of its legs that are lost, and how many were when each leg's data came.
type crowd struct {
	echo
	held   chan struct{} // the first Data waits for it
	began  chan struct{}
	once   sync.Once
	losses int // of the loop only
	heard  chan int
}

func (c *crowd) Lost(Leg, error) { c.losses++ }

func (c *crowd) Data(_ Leg, b []byte) int {
	first := false
	c.once.Do(func() {
		first = true
		close(c.began)
		<-c.held
	})
	if !first {
		c.heard <- c.losses
	}
	return len(b)
}

// When hundreds are lost at once, who still talks does not wait until all of them are told.
func TestLossesLetTalkersPass(t *testing.T) {
	const lost = 500
	e := New(Options{Loops: 1})
	defer e.Close()
	c := &crowd{held: make(chan struct{}), began: make(chan struct{}), heard: make(chan int, 1)}
	var peers []net.Conn
	for range 2 + lost {
		ours, peer := tcpPair(t)
		defer peer.Close()
		e.Group(c).Add(ours, nil).Resume()
		peers = append(peers, peer)
	}
	peers[0].Write([]byte("wait"))
	<-c.began
	for _, peer := range peers[2:] {
		peer.(*net.TCPConn).SetLinger(0)
		peer.Close()
	}
	peers[1].Write([]byte("x"))
	close(c.held)
	if before := <-c.heard; before > 4*turnQueue {
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
