package demo

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFrozenNetworkAcknowledgesNothing(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("")
	write(t, server, "before")
	wantRead(t, client, "before")
	eventually(t, "the first bytes to be acknowledged", func() bool { return unacknowledged(t, server) == 0 })

	r.network.freeze()
	write(t, server, "into the ice")
	time.Sleep(quiet)
	if unacknowledged(t, server) == 0 {
		t.Fatal("a frozen network acknowledged what was sent into it, so its sender would take it for alive")
	}
	r.network.back()
	wantReset(t, server)
}

func unacknowledged(t *testing.T, c net.Conn) int {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var bytes int
	var failed error
	err = raw.Control(func(fd uintptr) { bytes, failed = unix.IoctlGetInt(int(fd), unix.TIOCOUTQ) })
	if err != nil || failed != nil {
		t.Fatalf("ask for unacknowledged bytes: %v, %v", err, failed)
	}
	return bytes
}
