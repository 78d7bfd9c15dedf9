package faults

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

// Out of local ports, new clients get 502 and the log says why, once; sessions go on, and when some have left, there
// is room again.
func TestOutOfPorts(t *testing.T) {
	t.Parallel()
	const ports = 20
	n := newNetwork(t)
	// Only for connections from the proxy's host: there, those to the backend are the only ones.
	n.proxy.run("sh", "-c", fmt.Sprintf("echo 40000 %d > /proc/sys/net/ipv4/ip_local_port_range", 40000+ports-1))
	b := startBackend(t, n.backend.listen(backendAddr), 50*time.Millisecond)
	p := n.start(b)
	come := func(id string) (*wire, error) {
		conn, err := n.from(clientAddr)(t.Context())
		if err != nil {
			return nil, err
		}
		return open(conn, "/chat?client_id="+id)
	}
	var sessions []*wire
	for i := range ports {
		w, err := come(fmt.Sprint("c", i))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		sessions = append(sessions, w)
	}
	for i := range 20 {
		if w, err := come(fmt.Sprint("late", i)); err == nil {
			w.Close()
			t.Errorf("late client %d got in, through a port that does not exist", i)
		} else if !strings.Contains(err.Error(), "502") {
			t.Errorf("without a port for its upstream a client got %v, want 502", err)
		}
	}
	if n := p.warnings("cannot assign requested address"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, p.log.String())
	}
	for _, w := range sessions {
		if _, err := w.message(); err != nil {
			t.Errorf("a session was hurt: %v", err)
		}
	}
	for _, w := range sessions[:5] {
		io.WriteString(w, bye)
		watch(w, -1, -1)
		w.Close()
	}
	for i := range 5 { // ports come back: the backend closes first, so that TIME-WAIT is its own
		eventually(t, func() error {
			w, err := come(fmt.Sprint("again", i))
			if err != nil {
				return err
			}
			t.Cleanup(func() { w.Close() })
			_, err = w.message()
			return err
		})
	}
}
