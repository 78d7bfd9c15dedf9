package proxy

import (
	"io"
	"net"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/proxytest"
)

// Heartbeats watch an upstream leg; TCP keep-alives would come on top of them.
func TestDialWithoutKeepAlive(t *testing.T) {
	up := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
	})
	d := dialerTo(t, "ws://"+up.Addr(), patience)
	conn, err := d.dial(t.Context(), handshake(t, "/"), testAddr, nil)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer conn.Conn.Close()
	raw, err := conn.Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		on, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE)
		if err != nil || on != 0 {
			t.Errorf("SO_KEEPALIVE is %d (%v), want 0", on, err)
		}
	})
}
