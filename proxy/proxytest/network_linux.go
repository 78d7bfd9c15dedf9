package proxytest

import (
	"net"

	"golang.org/x/sys/unix"
)

// swallow makes the system drop every segment that arrives for conn, before TCP looks at it:
// no data, no acknowledgement, no reset gets in, and so none is answered.
func swallow(conn *net.TCPConn) {
	nothing := [1]unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	program := unix.SockFprog{Len: 1, Filter: &nothing[0]}
	control(conn, func(fd int) {
		unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program)
	})
}

func unswallow(conn *net.TCPConn) {
	control(conn, func(fd int) {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
	})
}

func control(conn *net.TCPConn, f func(fd int)) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) { f(int(fd)) })
}
