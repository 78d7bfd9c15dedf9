package engine

import (
	"fmt"
	"testing"
	"time"
)

func testWake(t *testing.T, n network) {
	e := n.mk(Options{})
	defer within(t, "Engine.Close", e.Close)
	for _, again := range []time.Duration{0, time.Millisecond, time.Hour} {
		o := &owner{t: t}
		g := e.Group(o, nil)
		g.Wake(again) // replaced, perhaps after it has come
		g.Wake(time.Hour)
		g.Wake(time.Millisecond)
		eventually(t, "the group's timer ticks", func() bool { return o.ticked() > 0 })
		most := 2
		if again == time.Hour {
			most = 1
		}
		never(t, "a tick that nobody asked for", func() bool { return o.ticked() > most })
		before := o.ticked()
		g.Wake(2 * time.Millisecond)
		eventually(t, "it ticks again", func() bool { return o.ticked() > before })
	}
	o := &owner{t: t}
	g := e.Group(o, nil)
	g.Wake(20 * time.Millisecond)
	g.Release()
	never(t, "a tick of a group that was released", func() bool { return o.ticked() > 0 })
	o.mu.Lock()
	if o.overs != 1 {
		t.Errorf("Over was called %d times, want once", o.overs)
	}
	o.mu.Unlock()

	// Many timers, in no order: each ticks.
	owners := make([]*owner, 200)
	for i := range owners {
		owners[i] = &owner{t: t}
		e.Group(owners[i], nil).Wake(time.Duration(i*7919%200) * 100 * time.Microsecond)
	}
	for _, o := range owners {
		eventually(t, "each timer ticks", func() bool { return o.ticked() == 1 })
	}
}

func testWakeClosed(t *testing.T, n network) {
	e := n.mk(Options{})
	o := &owner{t: t}
	g := e.Group(o, nil)
	g.Wake(5 * time.Millisecond)
	within(t, "Engine.Close", e.Close)
	before := o.ticked()
	g.Wake(0)
	never(t, "a tick after Engine.Close", func() bool { return o.ticked() > before })
	g.Release()
}

func (o *owner) ticked() int { o.mu.Lock(); defer o.mu.Unlock(); return o.ticks }

// Where the engine itself watches over UserTimeout, a slow reader is not a lost one.
func testSlowReader(t *testing.T, n network) {
	ours, peer := n.pair(t)
	if ours.LocalAddr().Network() != "unix" {
		_ = ours.Close()
		_ = peer.Close()
		t.Skip("the system watches over the time, or nothing is buffered")
	}
	defer peer.Close()
	e := n.mk(Options{UserTimeout: 1500 * time.Millisecond})
	defer e.Close()
	o := &owner{t: t}
	l := e.Group(o, nil).Add(ours, nil)
	l.Resume()
	backlog := l.Write([][]byte{make([]byte, huge)})
	for range 20 {
		time.Sleep(100 * time.Millisecond)
		read(t, peer, 64<<10)
	}
	if o.isLost() {
		t.Fatalf("a peer that read %d bytes in 2 s was lost: %v", 20*64<<10, o.lost[0])
	}
	read(t, peer, huge-20*64<<10)
	eventually(t, "the backlog of "+fmt.Sprint(backlog)+" bytes is written", func() bool { _, w, _ := o.count(); return w == 1 })
	time.Sleep(1600 * time.Millisecond)
	l.Write([][]byte{[]byte("more")}) // the time does not run on after the backlog
	if got := read(t, peer, 4); string(got) != "more" {
		t.Errorf("the peer got %q", got)
	}
}
