//go:build !race

package engine

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sockets here never block, so that Go's scheduler need not be told of each call: that would
// cost some of what a fast call does, and in the middle of a slow one the scheduler gives the
// processor away. A call that a signal interrupts is made again; errno is EAGAIN where the
// socket is empty or full. (call_race_linux.go does the same for the race detector, which
// must see the calls.)
//
// recv and send spare the system what read and write do for files.

func readFD(fd int, b []byte) (n int, errno syscall.Errno) {
	return rawCall(unix.SYS_RECVFROM, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b), 0)
}

func writeFD(fd int, b []byte) (n int, errno syscall.Errno) {
	return rawCall(unix.SYS_SENDTO, fd, unsafe.Pointer(unsafe.SliceData(b)), len(b), unix.MSG_NOSIGNAL)
}

// writevFD takes at most maxVec buffers.
func writevFD(fd int, bufs [][]byte) (n int, errno syscall.Errno) {
	var vec [maxVec]unix.Iovec
	for i, b := range bufs {
		vec[i].Base = unsafe.SliceData(b)
		vec[i].SetLen(len(b))
	}
	msg := unix.Msghdr{Iov: &vec[0]}
	msg.SetIovlen(len(bufs))
	return rawCall(unix.SYS_SENDMSG, fd, unsafe.Pointer(&msg), unix.MSG_NOSIGNAL, 0)
}

func rawCall(trap uintptr, fd int, p unsafe.Pointer, n, flags int) (int, syscall.Errno) {
	for {
		r, _, errno := syscall.RawSyscall6(trap, uintptr(fd), uintptr(p), uintptr(n), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(r), 0
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// pollFor waits until there are events, but no longer than ms milliseconds. Whoever stops the world ends it with a signal.
func pollFor(epfd int, events []unix.EpollEvent, ms int) (n int) {
	r, _, errno := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(ms), 0, 0)
	if errno != 0 {
		return 0 // EINTR
	}
	return int(r)
}
