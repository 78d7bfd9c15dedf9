package client

import (
	"bytes"
	"testing"
)

func TestInjectIsOneClassicScript(t *testing.T) {
	lines := bytes.Split(bytes.TrimSpace(JS), []byte("\n"))
	for i, line := range lines {
		last := i == len(lines)-1
		if exports := bytes.HasPrefix(line, []byte("export ")); exports != last {
			t.Errorf("tideover.js:%d: the exports must stand on the last line and nowhere else", i+1)
		}
		if bytes.HasPrefix(line, []byte("import ")) {
			t.Errorf("tideover.js:%d: a classic script cannot import", i+1)
		}
	}
	if bytes.Contains(Inject, []byte("\nexport ")) {
		t.Error("Inject holds an export, which no browser accepts in a classic script")
	}
	for _, want := range []string{"\nclass TideoverSocket ", "define(window, 'WebSocket'"} {
		if n := bytes.Count(Inject, []byte(want)); n != 1 {
			t.Errorf("Inject holds %q %d times, want once", want, n)
		}
	}
}
