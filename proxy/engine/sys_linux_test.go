package engine

import (
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestPortableSocketOptions(t *testing.T) {
	ours, peer := tcpPair(t)
	defer peer.Close()
	tcp := ours.(*net.TCPConn)
	_ = tcp.SetNoDelay(false)
	_ = tcp.SetKeepAlive(true)
	e := NewPortable(Options{UserTimeout: 12345 * time.Millisecond})
	defer e.Close()
	e.Group(&owner{t: t}, nil).Add(ours, nil)

	raw, err := tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []struct {
		name             string
		level, opt, want int
	}{
		{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0},
		{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 12345},
	} {
		if err := raw.Control(func(fd uintptr) {
			if got, err := unix.GetsockoptInt(int(fd), o.level, o.opt); err != nil || got != o.want {
				t.Errorf("%s is %d (%v), want %d", o.name, got, err, o.want)
			}
		}); err != nil {
			t.Error(err)
		}
	}
}
