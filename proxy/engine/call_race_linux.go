//go:build race

package engine

import "golang.org/x/sys/unix"

func pollFor(epfd int, events []unix.EpollEvent, ms int) (n int) { return waitFD(epfd, events, ms) }
