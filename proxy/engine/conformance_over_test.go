package engine

import (
	"net"
	"sync"
	"testing"
	"time"
)

// A tenant is a Handler with a lock, held by nearly all its calls, that releases its group when it has lost so many legs. Its room is
// part of it.
type tenant struct {
	t      *testing.T
	mu     sync.Mutex
	group  Group
	legs   int // that are not lost
	ticks  chan struct{}
	moveOn chan struct{} // Tick waits for it; nil: it does not
	over   chan struct{}
	room   Room
}

func newTenant(t *testing.T) *tenant {
	return &tenant{t: t, ticks: make(chan struct{}, 1), over: make(chan struct{}, 2)}
}

// moveIn has n legs added, of which the peers are returned.
func (o *tenant) moveIn(e Engine, n network, legs int) (ours []Leg, peers []net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.group = e.Group(o, &o.room)
	o.legs = legs
	for range legs {
		conn, peer := n.pair(o.t)
		ours, peers = append(ours, o.group.Add(conn, nil)), append(peers, peer)
	}
	for _, leg := range ours {
		leg.Resume()
	}
	return ours, peers
}

func (o *tenant) Expect(Leg, int) {}
func (o *tenant) Data(_ Leg, b []byte) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(b)
}

func (o *tenant) Writable(Leg) {
	o.mu.Lock()
	defer o.mu.Unlock()
}

func (o *tenant) Lost(Leg, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.legs--; o.legs == 0 {
		o.group.Release()
		o.group = nil
	}
}

func (o *tenant) Tick() {
	o.mu.Lock()
	moveOn := o.moveOn
	o.mu.Unlock()
	o.ticks <- struct{}{}
	if moveOn != nil {
		<-moveOn
	}
}

func (o *tenant) Over() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.legs > 0 {
		o.t.Errorf("Over with %d legs that are not lost", o.legs)
	}
	o.room = Room{}
	o.over <- struct{}{}
}

func (o *tenant) movedOut(what string) {
	o.t.Helper()
	select {
	case <-o.over:
	case <-time.After(longEnough):
		o.t.Fatalf("no Over %s", what)
	}
}

func (o *tenant) stays(what string) {
	o.t.Helper()
	select {
	case <-o.over:
		o.t.Fatalf("Over %s", what)
	case <-time.After(30 * time.Millisecond):
	}
}

func testOver(t *testing.T, n network) {
	e := n.mk(Options{Linger: time.Minute})
	defer within(t, "Engine.Close", e.Close)

	o := newTenant(t)
	o.moveIn(e, n, 0)
	o.group.Wake(time.Hour)
	o.stays("before Release")
	o.mu.Lock()
	o.group.Release()
	o.mu.Unlock()
	o.movedOut("of a group without legs")
	o.stays("twice")

	// Released while it loses its last leg, as sessions are.
	o = newTenant(t)
	ours, peers := o.moveIn(e, n, 3)
	defer closeAll(peers)
	ours[0].Close(false)
	peers[1].Close()
	o.stays("with a leg left, and before Release")
	ours[2].Close(false)
	o.movedOut("after the last leg")
	o.stays("twice")

	// Released before: a leg that is being closed has a Lost to come.
	o = newTenant(t)
	ours, peers = o.moveIn(e, n, 2)
	defer closeAll(peers)
	ours[0].Write([][]byte{make([]byte, huge)})
	o.mu.Lock()
	ours[0].Close(true)
	ours[1].Close(false)
	o.legs++ // so that Lost does not release it once more
	o.group.Release()
	o.mu.Unlock()
	o.stays("with a leg that still says goodbye")
	o.mu.Lock()
	o.legs--
	o.group = noGroup{}
	o.mu.Unlock()
	peers[0].Close()
	o.movedOut("after the last leg was closed")
	o.stays("twice")
}

const longEnough = 10 * time.Second

type noGroup struct{ Group }

func (noGroup) Release() {}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

func testOverWaitsForTick(t *testing.T, n network) {
	e := n.mk(Options{})
	defer within(t, "Engine.Close", e.Close)
	o := newTenant(t)
	o.moveOn = make(chan struct{})
	o.moveIn(e, n, 0)
	o.group.Wake(0)
	<-o.ticks
	o.group.Release()
	o.stays("while a Tick runs")
	close(o.moveOn)
	o.movedOut("after the Tick")
}

// Rooms are moved into again at once, by other legs: whatever the engine still did in one would be a data race, or hit a
// stranger.
func testRoomIsFree(t *testing.T, n network) {
	e := n.mk(Options{Linger: 2 * time.Millisecond})
	defer within(t, "Engine.Close", e.Close)
	var all sync.WaitGroup
	for worker := range 8 {
		o := newTenant(t)
		all.Go(func() {
			for i := range 25 {
				ours, peers := o.moveIn(e, n, 2)
				o.mu.Lock()
				if o.group != nil {
					o.group.Wake(time.Duration(i%3) * time.Millisecond)
				}
				o.mu.Unlock()
				switch (worker + i) % 4 {
				case 0: // both ends at once
					go peers[0].Close()
					go peers[1].Close()
					o.mu.Lock()
					if o.group != nil {
						ours[0].Close(true)
					}
					o.mu.Unlock()
				case 1: // the peers first, with something to say
					for _, peer := range peers {
						_, _ = peer.Write([]byte("bye"))
						go peer.Close()
					}
				case 2:
					ours[0].Write([][]byte{[]byte("hello")})
					ours[0].Close(true)
					ours[1].Close(false)
				case 3: // a conn that no loop serves, beside those that one does
					o.mu.Lock()
					odd, peer := net.Pipe()
					o.legs++
					leg := o.group.Add(odd, nil)
					o.mu.Unlock()
					leg.Resume()
					peer.Close()
					ours[0].Close(false)
					peers[1].Close()
				}
				select {
				case <-o.over:
				case <-time.After(longEnough):
					t.Error("no Over")
					return
				}
				closeAll(peers)
				select {
				case <-o.ticks:
				default:
				}
			}
		})
	}
	all.Wait()
}
