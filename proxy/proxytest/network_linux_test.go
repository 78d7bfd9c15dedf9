package proxytest

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func acked(t *testing.T, conn *net.TCPConn) (count uint64) {
	t.Helper()
	control(conn, func(fd int) {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatalf("TCP_INFO: %v", err)
		}
		count = info.Bytes_acked
	})
	return count
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(60 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still waiting for %s", what)
		}
	}
}

// A proxy may take an acknowledgement by TCP as a sign of life, so a silent wire must not give any.
func TestSilenceAcknowledgesNothing(t *testing.T) {
	_, server, w := through(t)
	before := acked(t, server)
	send(t, server, "seen")
	waitFor(t, "an unhurt wire to acknowledge", func() bool { return acked(t, server) >= before+4 })
	w.Silence()
	before = acked(t, server)
	for range 20 {
		send(t, server, "unseen")
		time.Sleep(5 * time.Millisecond)
	}
	if got := acked(t, server); got != before {
		t.Errorf("a silent wire acknowledged %d bytes", got-before)
	}
	w.Resume()
	waitFor(t, "the mended wire to acknowledge what was lost", func() bool { return acked(t, server) >= before+120 })
}
