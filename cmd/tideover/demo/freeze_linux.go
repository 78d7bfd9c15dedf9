package demo

import (
	"net"

	"golang.org/x/sys/unix"
)

// deafen makes the system drop whatever arrives for c before TCP sees it, and
// so acknowledge nothing: to its peer the connection is half-open, as it is
// when a phone goes out of reach. Merely not reading would not do, because the
// system would go on to acknowledge what it keeps for a reader.
func deafen(c net.Conn) {
	dropAll := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}} // accept 0 bytes of each packet
	filter := unix.SockFprog{Len: 1, Filter: &dropAll[0]}
	onSocket(c, func(fd int) error {
		return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &filter)
	})
}

// onSocket is best effort: without the filter a frozen connection is still one
// on which nothing moves.
func onSocket(c net.Conn, do func(fd int) error) {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	if raw, err := tcp.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = do(int(fd)) })
	}
}
