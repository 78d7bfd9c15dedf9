//go:build !darwin && !linux

package engine

import "errors"

var errNoRaw = errors.New("not available on this system")

// openRaw leaves raw nil: here every conn is served by its own blocking methods.
func (l *leg) openRaw() {}

func (l *leg) readRaw()                       { l.gotErr = errNoRaw }
func (l *leg) flushRaw() error                { return errNoRaw }
func (l *leg) writeNow([][]byte) (int, error) { return 0, errNoRaw }
