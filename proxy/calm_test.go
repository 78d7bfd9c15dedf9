package proxy

import "testing"

// Memory is given back once a storm, and only after it: not while handshakes come as ever, and not for a few.
func TestCalmAfterAStorm(t *testing.T) {
	var c calm
	for i, look := range []struct {
		handshakes uint64
		over       bool
	}{
		{0, false}, {20, false}, {999, false}, {0, false}, // never a storm
		{400, false}, {5000, false}, {9000, false}, {2000, false}, {451, false}, {450, true}, // ebbs away
		{450, false}, {450, false}, {0, false}, // and that was all
		{1500, false}, {1500, false}, {1500, false}, // a busy day
		{1000, false}, {0, true}, {0, false},
	} {
		c.handshakes.Add(look.handshakes)
		if n, over := c.look(); n != look.handshakes || over != look.over {
			t.Errorf("look %d, after %d more handshakes: counts %d, over is %v, want %v", i, look.handshakes, n, over, look.over)
		}
	}
}
