package engine

import (
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout sets TCP_USER_TIMEOUT (tcp(7), RFC 5482), in milliseconds.
func setUserTimeout(c *net.TCPConn, d time.Duration) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT: %w", err)
	}
	var failed error
	if err := raw.Control(func(fd uintptr) { failed = userTimeout(int(fd), d) }); err != nil {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT to %v on %v: %w", d, c.RemoteAddr(), failed)
	}
	return nil
}

func userTimeout(fd int, d time.Duration) error {
	return setOption(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(1, d.Milliseconds())))
}

// ackedBytes asks the system for tcpi_bytes_acked (tcp(7), RFC 4898
// tcpEStatsAppHCThruOctetsAcked); false where it does not answer.
func ackedBytes(c *net.TCPConn) (n uint64, known bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	if err := raw.Control(func(fd uintptr) { n, known = acked(int(fd)) }); err != nil {
		return 0, false
	}
	return n, known
}

func acked(fd int) (uint64, bool) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return info.Bytes_acked, true
}
