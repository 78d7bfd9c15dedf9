//go:build darwin || linux

package engine

import "syscall"

// maxVec is how many buffers one system call writes: unix.Writev allocates for more.
const maxVec = 8

// writeBufs writes bufs until the socket is full. Up to maxVec buffers are one system
// call; more of them are copied together first, 64 KiB a call.
func writeBufs(fd int, bufs [][]byte) (int, error) {
	if len(bufs) <= maxVec {
		return writeVec(fd, bufs)
	}
	b := getBuffer(maxClass)
	defer b.free()
	total := 0
	for off := 0; len(bufs) > 0; {
		b.w = 0
		for len(bufs) > 0 && b.w < len(b.b) {
			n := copy(b.b[b.w:], bufs[0][off:])
			b.w += n
			if off += n; off == len(bufs[0]) {
				bufs, off = bufs[1:], 0
			}
		}
		n, err := writeOne(fd, b.b[:b.w])
		total += n
		if err != nil || n < b.w {
			return total, err
		}
	}
	return total, nil
}

// writeVec takes at most maxVec buffers. It returns 0 and no error when the socket takes nothing.
func writeVec(fd int, bufs [][]byte) (int, error) {
	if len(bufs) == 1 {
		return writeOne(fd, bufs[0])
	}
	return taken(writevFD(fd, bufs))
}

func writeOne(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return taken(writeFD(fd, b))
}

func taken(n int, errno syscall.Errno) (int, error) {
	if errno != 0 && errno != syscall.EAGAIN {
		return 0, errno
	}
	return n, nil
}
