//go:build darwin || (linux && race)

package engine

import (
	"syscall"

	"golang.org/x/sys/unix"
)

func readFD(fd int, b []byte) (n int, errno syscall.Errno) {
	return again(func() (int, error) { return unix.Read(fd, b) })
}

func writeFD(fd int, b []byte) (n int, errno syscall.Errno) {
	return again(func() (int, error) { return unix.Write(fd, b) })
}

// writevFD takes at most maxVec buffers.
func writevFD(fd int, bufs [][]byte) (n int, errno syscall.Errno) {
	return again(func() (int, error) { return unix.Writev(fd, bufs) })
}

// again makes a call that a signal interrupts once more.
func again(call func() (int, error)) (int, syscall.Errno) {
	for {
		n, err := call()
		errno, _ := err.(syscall.Errno)
		switch errno {
		case 0:
			return n, 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}
