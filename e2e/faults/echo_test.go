package faults

import (
	"bufio"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// startGorilla runs gorilla/websocket's own echo server, the one they test with Autobahn, and returns its
// address. On the path /m it reads a message, checks it, and writes it back as one frame.
func startGorilla(t *testing.T) string {
	t.Helper()
	addr := proxytest.FreeAddr(t)
	cmd := exec.Command(buildEcho(t), "-addr", addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return addr
}

// startNpm runs an echo server on npm's ws and returns its address.
func startNpm(t *testing.T) string {
	t.Helper()
	proxytest.Need(t, "node")
	if _, err := os.Stat("../node_modules/ws/package.json"); err != nil {
		proxytest.Skip(t, "npm packages of e2e not installed")
	}
	cmd := exec.Command("node", "echo.mjs")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Process.Kill()
		cmd.Wait()
	})
	addr, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("echo.mjs never became ready: %v", err)
	}
	return strings.TrimSpace(addr)
}

// A mirror is a backend that sends every data frame back as it came but for the mask: same first byte, same
// encoding of the length. It remembers what it was sent, byte for byte.
type mirror struct {
	addr string
	mu   sync.Mutex
	got  map[string]string // by request target
}

func startMirror(t *testing.T) *mirror {
	m := &mirror{got: map[string]string{}}
	m.addr = proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		conn.SetDeadline(time.Now().Add(patience))
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
		target := strings.Fields(header)[1]
		for {
			var raw strings.Builder
			f, bits, err := readRaw(io.TeeReader(conn, &raw))
			if err != nil {
				return
			}
			m.mu.Lock()
			m.got[target] += raw.String()
			m.mu.Unlock()
			if f.op() == ping {
				f.first, bits = fin|pong, 7
			}
			if f.op() == pong {
				continue
			}
			if _, err := io.WriteString(conn, build(f.first, "", f.payload, bits)); err != nil || f.op() == closeOp {
				return
			}
		}
	}).Addr()
	return m
}

// received is what came with the request for target.
func (m *mirror) received(target string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.got[target]
}
