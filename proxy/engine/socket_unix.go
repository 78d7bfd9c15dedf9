//go:build darwin || linux

package engine

import "golang.org/x/sys/unix"

// maxVec is what unix.Writev takes without allocating.
const maxVec = 8

// writeBufs writes bufs until the socket is full. Up to maxVec buffers are one system
// call; more of them are copied together first, 64 KiB a call.
func writeBufs(fd int, bufs [][]byte) (int, error) {
	if len(bufs) <= maxVec {
		return writeVec(fd, bufs)
	}
	b := getBuffer(maxClass)
	defer b.free()
	taken := 0
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
		taken += n
		if err != nil || n < b.w {
			return taken, err
		}
	}
	return taken, nil
}

func writeVec(fd int, bufs [][]byte) (int, error) {
	if len(bufs) == 1 {
		return writeOne(fd, bufs[0])
	}
	for {
		n, err := unix.Writev(fd, bufs)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}

// writeOne returns 0 and no error when the socket takes nothing.
func writeOne(fd int, b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	for {
		n, err := unix.Write(fd, b)
		switch err {
		case nil:
			return n, nil
		case unix.EAGAIN:
			return 0, nil
		case unix.EINTR:
		default:
			return 0, err
		}
	}
}
