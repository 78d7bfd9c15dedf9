package engine

import (
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
