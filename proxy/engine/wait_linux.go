package engine

import "golang.org/x/sys/unix"

// waitFD waits until there are events, but for so many milliseconds at most (negative: without
// end). Go's scheduler knows of it: others have the processor meanwhile.
func waitFD(epfd int, events []unix.EpollEvent, ms int) (n int) {
	n, err := unix.EpollWait(epfd, events, ms)
	if err != nil {
		return 0 // EINTR
	}
	return n
}
