package faults

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// limited starts a program with so many descriptors.
func limited(descriptors int) []string {
	return []string{"sh", "-c", fmt.Sprintf(`ulimit -n %d && exec "$@"`, descriptors), "sh"}
}

// At the limit of descriptors the proxy neither ends nor spins: who is connected is served on, who comes has to
// wait or gets 502, the log says why once, and as soon as descriptors are free, all is well again.
func TestDescriptorLimit(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	p := startProxyAt(t, place{prefix: limited(64)}, m.addr, settings{"session.grace": "1s"})
	var sessions []*wire
	for i := range 10 {
		sessions = append(sessions, mustDial(t, p.addr, keyed(i)))
	}
	var crowd []net.Conn
	for range 100 { // the system accepts them, whatever becomes of the proxy
		conn, err := net.DialTimeout("tcp", p.addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		crowd = append(crowd, conn)
	}
	eventually(t, func() error {
		open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
		if err == nil && len(open) < 64 {
			err = fmt.Errorf("only %d descriptors are open", len(open))
		}
		return err
	})
	before, began := p.cpu(t), time.Now()
	for range 20 {
		for _, w := range sessions {
			w.mustEcho(t, "still here")
		}
		time.Sleep(50 * time.Millisecond)
	}
	if used, passed := p.cpu(t)-before, time.Since(began); used > passed/4 {
		t.Errorf("at the limit the proxy computed for %v of %v", used, passed)
	}
	if n := p.warnings("can't be accepted"); n != 1 {
		t.Errorf("%d warnings that clients can't be accepted, want 1:\n%s", n, p.log.String())
	}
	for _, conn := range crowd[:40] {
		conn.Close()
	}
	// Now some can be accepted, but there is no descriptor for each upstream.
	refused := 0
	for i, conn := range crowd[40:] {
		conn.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(conn, request(keyed(100+i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, conn := range crowd[40:] {
		var answer [12]byte
		_, err := io.ReadFull(conn, answer[:])
		if err != nil {
			t.Fatalf("no answer at all: %v", err)
		}
		if string(answer[:]) == "HTTP/1.1 502" {
			refused++
		}
		conn.Close()
	}
	t.Logf("%d of 60 handshakes were refused", refused)
	for i := range 10 {
		eventually(t, func() error { // those of the crowd who got in are away for the grace
			w, err := dial(p.addr, keyed(1000+i))
			if err != nil {
				return err
			}
			t.Cleanup(func() { w.Close() })
			return w.echo("room again")
		})
	}
	for _, w := range sessions {
		w.mustEcho(t, "to the end")
	}
	if n := p.warnings("upstream unreachable"); n != 1 {
		t.Errorf("%d warnings that the upstream can't be dialled, want 1:\n%s", n, p.log.String())
	}
}

// A pipe that nobody reads, or a disk that is full, holds up nothing but the log.
func TestLogThatNobodyTakes(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	t.Run("blocked", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		p := startProxyAt(t, place{stderr: w}, m.addr, events, settings{"log.level": "debug"})
		fill(t, w)
		c := mustDial(t, p.addr, keyed(1))
		c.mustEcho(t, "attached")
		for i := range 200 { // each is worth lines
			c.abort()
			c = mustDial(t, p.addr, keyed(1))
			if i%20 == 0 {
				c.mustEcho(t, "resumed")
			}
		}
		if response, err := p.client.Get("http://" + p.admin + "/healthz"); err != nil || response.StatusCode != 200 {
			t.Errorf("the admin API is held up: %v", err)
		}
		go io.Copy(io.Discard, r)
		p.stop(t)
	})
	t.Run("full", func(t *testing.T) {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skipf("SKIPPED: no /dev/full here: %v", err)
		}
		defer full.Close()
		p := startProxyAt(t, place{stderr: full}, m.addr, events, settings{"log.level": "debug"})
		for range 20 {
			mustDial(t, p.addr, keyed(1)).mustEcho(t, "nobody hears of it")
		}
	})
	t.Run("closed", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p := startProxyAt(t, place{stderr: w}, m.addr, events, settings{"log.level": "debug"})
		w.Close()
		r.Close() // as when the collector of logs has crashed
		for range 20 {
			mustDial(t, p.addr, keyed(1)).mustEcho(t, "nobody hears of it")
		}
	})
}

// fill writes to a pipe until it takes no more.
func fill(t *testing.T, w *os.File) {
	t.Helper()
	// Opened anew, since O_NONBLOCK on w would be the other process's too.
	fd, err := syscall.Open(fmt.Sprintf("/proc/self/fd/%d", w.Fd()), syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Skipf("SKIPPED: this system has no /proc/self/fd: %v", err)
	}
	defer syscall.Close(fd)
	for size := 4096; size > 0; size /= 2 {
		line := append(bytes.Repeat([]byte("x"), size-1), '\n')
		for err = nil; err == nil; {
			_, err = syscall.Write(fd, line)
		}
	}
}

// Handshakes that trickle in, hundreds of them, take nobody's place and are given up in time.
func TestSlowHandshakes(t *testing.T) {
	t.Parallel()
	m := startMirror(t)
	p := startProxy(t, m.addr, settings{"limits.handshake_timeout": "2s"})
	var slow sync.WaitGroup
	stay := make(chan struct{})
	for i := range 300 {
		conn, err := net.DialTimeout("tcp", p.addr, patience)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		slow.Go(func() {
			for _, c := range request(keyed(i), "X-Slow: "+strings.Repeat("x", 10_000)) {
				if _, err := conn.Write([]byte(string(c))); err != nil {
					return
				}
				select {
				case <-stay:
					t.Error("half a handshake kept its connection until the end")
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	for i := range 30 {
		mustDial(t, p.addr, keyed(1000+i)).mustEcho(t, "served")
	}
	gone := make(chan struct{})
	go func() {
		slow.Wait()
		close(gone)
	}()
	select {
	case <-gone:
	case <-time.After(patience):
		close(stay)
		<-gone
	}
	mustDial(t, p.addr, keyed(2000)).mustEcho(t, "served")
}

// A dead upstream costs a line a minute in the log, each client one prompt answer, and hardly any dials, however many
// come.
func TestDialStorm(t *testing.T) {
	t.Parallel()
	dead := proxytest.FreeAddr(t)
	began := time.Now()
	p := startProxy(t, dead)
	var storm sync.WaitGroup
	for i := range 50 {
		storm.Go(func() {
			for n := range 40 {
				if code, err := status(p.addr, request(keyed(100*i+n))); err != nil || code != 502 {
					t.Errorf("answered with %d, %v; want 502", code, err)
				}
			}
		})
	}
	storm.Wait()
	// A slow machine only gets more of what is due each minute and each second.
	took := time.Since(began)
	if n, most := p.warnings("upstream"), 1+int(took/time.Minute); n < 1 || n > most {
		t.Errorf("2000 failing handshakes made %d warnings in %v, want 1 to %d:\n%s", n, took, most, p.log.String())
	}
	all := p.mustMetrics(t)
	dials, spared := all[`tideover_upstream_dial_failures_total{kind="unreachable"}`], all[`tideover_handshakes_refused_total{reason="circuit_open"}`]
	if most := 100 + took.Seconds(); dials+spared != 2000 || dials > most {
		t.Errorf("2000 handshakes made %v dials in %v, want %v at most, and %v were spared", dials, took, most, spared)
	}
	t.Logf("2000 handshakes made %v dials", dials)
	ln, err := net.Listen("tcp", dead)
	if err != nil {
		t.Skipf("SKIPPED: somebody else has taken the address: %v", err)
	}
	startBackend(t, ln, time.Second)
	eventually(t, func() error { // the next probe finds it
		w, err := dial(p.addr, "/chat?client_id=c1")
		if err != nil {
			return err
		}
		defer w.Close()
		_, err = w.message()
		return err
	})
}

// A backend that is killed ends its sessions, each client hears of it, and once it is back all can begin anew.
func TestBackendKilled(t *testing.T) {
	t.Parallel()
	addr := proxytest.FreeAddr(t)
	run := func() *exec.Cmd {
		cmd := exec.Command(buildEcho(t), "-addr", addr)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		return cmd
	}
	backend := run()
	p := startProxy(t, addr)
	var clients []*wire
	for i := range 30 {
		eventually(t, func() error {
			w, err := dial(p.addr, keyed(i))
			if err == nil {
				clients = append(clients, w)
			}
			return err
		})
		clients[i].mustEcho(t, "before")
	}
	backend.Process.Kill()
	for i, w := range clients {
		if s := watch(w, -1, -1); s.end != "in order" || s.close != 0 {
			t.Errorf("client %d saw %s, want the end of the connection and no Close, as straight from a backend that was killed", i, s)
		}
		w.Close()
	}
	if code, err := status(p.addr, request(keyed(1))); err != nil || code != 502 {
		t.Errorf("answered with %d, %v; want 502", code, err)
	}
	run()
	eventually(t, func() error {
		w, err := dial(p.addr, keyed(1))
		if err != nil {
			return err
		}
		defer w.Close()
		return w.echo("after")
	})
}
