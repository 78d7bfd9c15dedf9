//go:build linux

package main

import "testing"

// A program may be named so that it looks like other fields.
func TestTimesOfAProcessWithAnOddName(t *testing.T) {
	const stat = "4711 (a (b) c) R 1 2) R 42 4711 4711 0 -1 4194304 100 200 300 400 57 123 1000 2000 20 0 3 0 99 1 2\n"
	user, system, err := parseTimes([]byte(stat))
	if err != nil || user != 570e6 || system != 1230e6 {
		t.Errorf("got %d and %d ns, %v: want 570 and 1230 ms", user, system, err)
	}
	if got := statField([]byte(stat), 4); got != "42" {
		t.Errorf("the parent is %q", got)
	}
	for _, short := range []string{"", "1 (a) R 1 2 3", "1 (a) R 1 2 3 4 5 6 7 8 9 10 11 x y"} {
		if _, _, err := parseTimes([]byte(short)); err == nil {
			t.Errorf("%q: no error", short)
		}
	}
}
