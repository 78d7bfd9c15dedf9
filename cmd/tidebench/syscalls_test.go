//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// A message costs Tideover two system calls, one to read and one to write it, and a part of one that asks for news. The
// proxy is stopped while messages are sent, so that the same work waits for it on any machine, however busy. That takes
// so long that each session is asked for receipts, which busy ones are seldom: a receipt may cost its ping, the news of the
// pong, and the pong.
func TestTwoSystemCallsAMessage(t *testing.T) {
	const (
		sessions = 200
		rounds   = 20
		messages = 2 * rounds * sessions
		most     = 2.1
	)
	clients, backends, proxy := relayed(t, sessions)
	arrived := make(chan struct{}, sessions)
	var pongs atomic.Int64
	for _, c := range clients {
		go listen(c, ws.StateClientSide, arrived, &pongs)
	}
	for _, b := range backends {
		go listen(b, ws.StateServerSide, arrived, &pongs)
	}
	text := []byte("a message of some length, as people write them")
	volley := func(from []net.Conn, frame ws.Frame) {
		stop(t, proxy)
		raw := ws.MustCompileFrame(frame)
		for _, c := range from {
			if _, err := c.Write(raw); err != nil {
				t.Fatal(err)
			}
		}
		if err := proxy.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for range from {
			select {
			case <-arrived:
			case <-time.After(time.Minute):
				t.Fatal("a message did not arrive")
			}
		}
	}
	both := func() {
		volley(clients, ws.MaskFrameInPlace(ws.NewTextFrame(bytes.Clone(text))))
		volley(backends, ws.NewTextFrame(text))
	}
	both() // whatever happens once has happened

	// A thread of Go's runtime looks around every now and then: what it sleeps comes with the time, not with messages.
	counter, err := countSyscalls([]int{proxy.Pid}, syscall.SYS_NANOSLEEP)
	if err != nil { // no package that could be installed helps
		t.Skipf("SKIPPED: %v", err)
	}
	defer counter.close()
	before, receipts := counter.read(), pongs.Load()
	for range rounds {
		both()
	}
	calls := counter.read() - before
	receipts = pongs.Load() - receipts
	t.Logf("%d system calls for %d messages and %d receipts", calls, messages, receipts)
	if got := float64(calls-3*receipts) / messages; got > most {
		t.Errorf("without receipts a message costs %.3f system calls, want two, and %v at most", got, most)
	}
	if calls < messages {
		t.Error("these can't be all")
	}
}

// relayed starts Tideover and makes sessions through it: the two ends of each, and the proxy's process.
func relayed(t *testing.T, n int) (clients, backends []net.Conn, proxy *os.Process) {
	t.Helper()
	dir := t.TempDir()
	program := filepath.Join(dir, "tideover")
	if out, err := exec.Command("go", "build", "-o", program, "../tideover").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { backend.Close() })
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "proxy.yaml")
	text := fmt.Sprintf("listen: %s\nadmin: {listen: \"\"}\nupstream: {url: ws://%s}\nsession: {key: [\"query:client_id\"]}\n", addr, backend.Addr())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "run", "--config", file)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(over)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-over
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for listening := false; !listening; {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			listening = true
		}
		select {
		case <-over:
			t.Fatal("Tideover has ended")
		case <-time.After(10 * time.Millisecond):
		}
	}
	for i := range n {
		accepted := make(chan net.Conn, 1)
		go func() {
			defer close(accepted)
			conn, err := backend.Accept()
			if err != nil {
				return
			}
			if _, err := ws.Upgrade(conn); err == nil {
				accepted <- conn
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		conn, early, _, err := ws.Dial(ctx, fmt.Sprintf("ws://%s/?client_id=%d", addr, i))
		cancel()
		if err != nil {
			t.Fatalf("session %d: %v", i, err)
		}
		if early != nil {
			t.Fatalf("session %d: its first bytes came with the handshake", i)
		}
		clients, backends = append(clients, conn), append(backends, <-accepted)
	}
	t.Cleanup(func() {
		for i := range clients {
			clients[i].Close()
			backends[i].Close()
		}
	})
	return clients, backends, cmd.Process
}

// listen reads one side of a session to its end, answers pings, and tells of each message.
func listen(c net.Conn, side ws.State, arrived chan<- struct{}, pongs *atomic.Int64) {
	for {
		f, err := ws.ReadFrame(c)
		if err != nil {
			return
		}
		if f.Header.Masked {
			f = ws.UnmaskFrameInPlace(f)
		}
		switch f.Header.OpCode {
		case ws.OpPing:
			answer := ws.NewPongFrame(f.Payload)
			if side.ClientSide() {
				answer = ws.MaskFrameInPlace(answer)
			}
			_ = ws.WriteFrame(c, answer)
			pongs.Add(1)
		case ws.OpText:
			arrived <- struct{}{}
		}
	}
}

// stop stops a process and waits until all of it stands still.
func stop(t *testing.T, p *os.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		still := true
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.Pid))
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if _, state, _ := strings.Cut(string(b), ") "); !strings.HasPrefix(state, "T") {
				still = false
			}
		}
		if still && len(tasks) > 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the proxy does not stop")
		}
	}
}
