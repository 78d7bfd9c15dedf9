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

// What a leg is handed ends with a whole frame wherever that is possible, so that a Close can follow it.
func TestWindowHandsOutWholeFrames(t *testing.T) {
	small := frame.Append(nil, frame.Text, make([]byte, 998), nil)
	large := frame.Append(nil, frame.Text, make([]byte, 5000), nil)
	for _, test := range []struct {
		name    string
		content [][]byte
		partial int // how much of the last one has not come yet
		limit   int
		want    []int // what is handed out, one after the other
	}{
		{"small ones", [][]byte{small, small, small}, 0, 2500, []int{2 * len(small), len(small)}},
		{"a limit that fits", [][]byte{small, small}, 0, len(small), []int{len(small), len(small)}},
		{"one that is larger than the limit", [][]byte{large, small}, 0, 2500, []int{2500, 2500, len(large) - 5000 + len(small)}},
		{"a large one behind a small one", [][]byte{small, large}, 0, 2500, []int{len(small), 2500, 2500, len(large) - 5000}},
		{"one that is not whole yet", [][]byte{small, small}, 100, 1 << 20, []int{2*len(small) - 100}},
	} {
		var w window
		for i, f := range test.content {
			if i == len(test.content)-1 {
				f = f[:len(f)-test.partial]
			}
			w.add(f)
			w.end()
		}
		for i, want := range test.want {
			if got := len(w.next(test.limit)); got != want {
				t.Errorf("%s: piece %d has %d bytes, want %d of %v", test.name, i, got, want, test.want)
			}
		}
		if w.unsent() {
			t.Errorf("%s: something is left", test.name)
		}
	}
}
