package engine

import (
	"net"

	"golang.org/x/sys/unix"
)

const acksKnown = true

// silence makes the system drop all that arrives for c, acknowledgements included: to
// the other end, c's host is gone without a word. It is a socket filter (socket(7),
// SO_ATTACH_FILTER) that accepts nothing.
func silence(c net.Conn) bool {
	tcp := tcpOf(c)
	if tcp == nil {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	drop := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	_ = raw.Control(func(fd uintptr) {
		err = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
			&unix.SockFprog{Len: uint16(len(drop)), Filter: &drop[0]})
	})
	return err == nil
}
