//go:build !linux

package engine

import (
	"errors"
	"net"
	"time"
)

// setUserTimeout fails: the flushing goroutine watches over the time instead.
func setUserTimeout(*net.TCPConn, time.Duration) error { return errors.ErrUnsupported }

func ackedBytes(*net.TCPConn) (uint64, bool) { return 0, false }
