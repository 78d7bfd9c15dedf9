//go:build linux

package main

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// counted is a handler that counts its events.
type counted struct{ events *int }

func (c counted) ready(uint32) { *c.events++ }

// What may wait is served a few at a time, however much there is, and all of it in the end; what is preferred later on is
// told again what it has not been told.
func TestWhatMayWaitIsServedInPortions(t *testing.T) {
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if err := l.putOff(); err != nil {
		t.Fatal(err)
	}
	readable := func(add func(int, handler) error, events *int) int {
		fd, err := unix.Eventfd(1, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
		if err == nil {
			t.Cleanup(func() { _ = unix.Close(fd) })
			err = add(fd, counted{events})
		}
		if err != nil {
			t.Fatal(err)
		}
		return fd
	}
	const many = 10*laterEvents + 1
	waited, urgent := 0, 0
	for range many {
		readable(l.addLater, &waited)
	}
	turn := func() {
		if err := l.poll(0); err != nil {
			t.Fatal(err)
		}
	}
	turn()
	if waited == 0 || waited > laterEvents {
		t.Errorf("of %d that may wait the first turn served %d, want %d", many, waited, laterEvents)
	}
	readable(l.add, &urgent)
	turn()
	if urgent != 1 || waited > 2*laterEvents {
		t.Errorf("the second turn served what is urgent %d times, and %d of what may wait", urgent, waited-laterEvents)
	}
	for end := time.Now().Add(time.Minute); waited < many && time.Now().Before(end); {
		turn()
	}
	if turn(); waited != many || urgent != 1 {
		t.Errorf("in the end %d of %d that may wait were served, and what is urgent %d times", waited, many, urgent)
	}
	preferred := 0
	for range 2 * laterEvents {
		readable(l.addLater, &waited)
	}
	fd := readable(l.addLater, &preferred)
	if err := l.prefer(fd); err != nil {
		t.Fatal(err)
	}
	if turn(); preferred != 1 {
		t.Errorf("what was preferred before its event came was told of it %d times in the next turn", preferred)
	}
}
