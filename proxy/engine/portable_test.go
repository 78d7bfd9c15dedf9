package engine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"
)

// TestMain fails the run when a goroutine or a descriptor outlives the tests.
func TestMain(m *testing.M) {
	goroutines, files := runtime.NumGoroutine(), openFiles()
	code := m.Run()
	for end := time.Now().Add(60 * time.Second); code == 0; time.Sleep(10 * time.Millisecond) {
		// The runtime's own descriptors (its poller's) appear with the first socket.
		g, f := runtime.NumGoroutine()-goroutines, openFiles()-files
		if g <= 0 && f <= 3 {
			break
		}
		if time.Now().After(end) {
			stacks := make([]byte, 64<<10)
			fmt.Fprintf(os.Stderr, "leaked %d goroutines, %d descriptors\n%s\n", g, f, stacks[:runtime.Stack(stacks, true)])
			code = 1
		}
	}
	os.Exit(code)
}

// openFiles counts this process's descriptors, where the system lists them.
func openFiles() int {
	list, _ := os.ReadDir("/proc/self/fd")
	return len(list)
}

func TestPortable(t *testing.T) {
	testEngine(t, NewPortable, map[string]pairer{"tcp": tcpPair, "unix": unixPair, "pipe": pipePair, "tls": tlsPair, "wrapped": wrappedPair})
}

type pairer = func(*testing.T) (ours, peer net.Conn)

func testEngine(t *testing.T, mk func(Options) Engine, over map[string]pairer) {
	for name, pair := range over {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testConformance(t, mk, pair)
		})
	}
}

func tcpPair(t *testing.T) (ours, peer net.Conn) {
	return socketPair(t, "tcp", "127.0.0.1:0")
}

func unixPair(t *testing.T) (ours, peer net.Conn) {
	dir, err := os.MkdirTemp("", "engine") // t.TempDir may be too long for a socket's name
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	return socketPair(t, "unix", filepath.Join(dir, "s"))
}

func socketPair(t testing.TB, network, addr string) (ours, peer net.Conn) {
	t.Helper()
	ln, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if peer, err = net.Dial(network, ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	for { // who dials a port that was somebody else's a moment ago may come here
		if ours, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		if network != "tcp" || ours.RemoteAddr().String() == peer.LocalAddr().String() {
			break
		}
		ours.Close()
	}
	for _, c := range []net.Conn{ours, peer} { // small, so that backlogs come early
		s := c.(interface {
			SetReadBuffer(int) error
			SetWriteBuffer(int) error
		})
		_ = s.SetReadBuffer(64 << 10)
		_ = s.SetWriteBuffer(64 << 10)
	}
	return ours, peer
}

func pipePair(*testing.T) (ours, peer net.Conn) { return net.Pipe() }

// wrapped is a conn that hides what its socket can do.
type wrapped struct{ net.Conn }

func isWrapped(c net.Conn) bool { _, ok := c.(wrapped); return ok }

func wrappedPair(t *testing.T) (ours, peer net.Conn) {
	ours, peer = tcpPair(t)
	return wrapped{ours}, wrapped{peer}
}

var certificate = sync.OnceValue(func() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
})

func tlsPair(t *testing.T) (ours, peer net.Conn) {
	t.Helper()
	return tlsPairOf(t, &tls.Config{InsecureSkipVerify: true})
}

func tlsPairOf(t *testing.T, peers *tls.Config) (ours, peer net.Conn) {
	t.Helper()
	ours, peer = tcpPair(t)
	server := ServerTLS(ours, &tls.Config{Certificates: []tls.Certificate{certificate()}})
	client := tls.Client(peer, peers)
	done := make(chan error, 1)
	go func() { done <- client.Handshake() }()
	if err := server.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return server, client
}
