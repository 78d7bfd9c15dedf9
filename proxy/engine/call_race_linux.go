//go:build race

package engine

import "golang.org/x/sys/unix"

func pollFD(epfd int, events []unix.EpollEvent) (n int) {
	n, err := unix.EpollWait(epfd, events, 0)
	if err != nil {
		return 0 // EINTR
	}
	return n
}

// lingerFD does not wait.
func lingerFD(int, []unix.EpollEvent) (n int) { return 0 }
