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
	ms := int(max(1, d.Milliseconds()))
	var failed error
	if err := raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, ms)
	}); err != nil {
		failed = err
	}
	if failed != nil {
		return fmt.Errorf("setting TCP_USER_TIMEOUT to %d ms on %v: %w", ms, c.RemoteAddr(), failed)
	}
	return nil
}

// ackedBytes asks the system for tcpi_bytes_acked (tcp(7), RFC 4898
// tcpEStatsAppHCThruOctetsAcked); false where it does not answer.
func ackedBytes(c *net.TCPConn) (uint64, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info *unix.TCPInfo
	var failed error
	if err := raw.Control(func(fd uintptr) {
		info, failed = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	}); err != nil || failed != nil {
		return 0, false
	}
	return info.Bytes_acked, true
}
