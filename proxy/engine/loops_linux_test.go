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
