package session

import (
	"runtime"
	"testing"

	"github.com/tideover/tideover/proxy/frame"
)

// A window that is full and turns over, message by message, moves its bytes within one buffer: a gigabyte for an
// away client must not become gigabytes of garbage.
func TestWindowTurnsOverInPlace(t *testing.T) {
	for _, size := range []int{100 << 10, 1 << 20, 3 << 20} {
		var w window
		message := frame.Append(nil, frame.Binary, make([]byte, size/16), nil)
		turn := func() {
			for w.len()+len(message) > size {
				w.trim(w.base + 1)
			}
			w.add(message)
			w.end()
		}
		for range 100 {
			turn()
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const turns = 1000
		for range turns {
			turn()
		}
		runtime.ReadMemStats(&after)
		if got := (after.TotalAlloc - before.TotalAlloc) / turns; got > uint64(len(message)/10) {
			t.Errorf("window of %d bytes: each message of %d allocates %d bytes", size, len(message), got)
		}
	}
}
