package demo

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen; quiet is how long
// it watches for what must not.
const (
	patience = 20 * time.Second
	quiet    = 60 * time.Millisecond
)

func TestNetworkCarriesBothWaysAndTheEnd(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("hello ")
	write(t, client, "up")
	wantRead(t, server, "hello up")
	write(t, server, "down")
	wantRead(t, client, "down")
	client.Close()
	wantEOF(t, server)
}

func TestPullResetsBothEndsAndRefusesUntilBack(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("")
	r.network.pull()
	wantReset(t, client)
	wantReset(t, server)
	r.wantRefused()
	r.network.back()
	client, server = r.connect("")
	write(t, client, "again")
	wantRead(t, server, "again")
	if state, cuts := r.network.now(); state != netUp || cuts != 1 {
		t.Errorf("after one pull: got %s with %d cuts, want %s with 1", state, cuts, netUp)
	}
}

func TestPullLosesTheWayDownFirst(t *testing.T) {
	r := newRoad(t, time.Hour) // the reset comes when the network comes back
	client, server := r.connect("")
	r.network.pull()
	write(t, server, "answer")
	wantSilence(t, client)
	write(t, client, "last words")
	wantRead(t, server, "last words")
	r.network.back()
	wantReset(t, client)
	wantReset(t, server)
}

func TestPullResetsAfterItsLag(t *testing.T) {
	r := newRoad(t, 50*time.Millisecond)
	client, server := r.connect("")
	r.network.pull()
	wantReset(t, client)
	wantReset(t, server)
}

func TestFreezeHoldsEverythingAndItsConnectionsDieWithIt(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("")
	r.network.freeze()
	write(t, client, "up")
	write(t, server, "down")
	wantSilence(t, server)
	wantSilence(t, client)
	r.network.back()
	wantReset(t, client)
	wantReset(t, server)
	client, server = r.connect("")
	write(t, client, "from another address")
	wantRead(t, server, "from another address")
}

func TestFreezeDeliversNoFarewell(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("")
	r.network.freeze()
	write(t, client, "bye")
	client.Close()
	wantSilence(t, server)
	r.network.back()
	wantReset(t, server)
}

func TestNewConnectionsHangWhileFrozen(t *testing.T) {
	r := newRoad(t, 0)
	r.network.freeze()
	client := r.dial()
	wantSilence(t, client)
	select {
	case <-r.far:
		t.Fatal("a connection got through a frozen network")
	case <-time.After(quiet):
	}
	r.network.back()
	server := r.accept()
	write(t, client, "at last")
	wantRead(t, server, "at last")
}

func TestConnectionGivenUpWhileFrozenNeverArrives(t *testing.T) {
	r := newRoad(t, 0)
	r.network.freeze()
	impatient := r.dial()
	r.wantLinks(1)
	impatient.Close()
	patient := r.dial()
	r.wantLinks(2)
	r.network.back()
	server := r.accept()
	write(t, patient, "me")
	wantRead(t, server, "me")
	r.wantLinks(1)
	select {
	case <-r.far:
		t.Error("the connection that was given up arrived after all")
	case <-time.After(quiet):
	}
}

func TestPullOfAFrozenNetworkResetsAtOnce(t *testing.T) {
	r := newRoad(t, time.Hour)
	client, server := r.connect("")
	r.network.freeze()
	hanging := r.dial()
	r.wantLinks(2)
	r.network.pull()
	wantReset(t, client)
	wantReset(t, server)
	wantReset(t, hanging)
	if _, cuts := r.network.now(); cuts != 1 {
		t.Errorf("freeze, then pull: %d cuts, want 1, for it was never back", cuts)
	}
}

func TestFreezeOfAPulledNetworkMakesNewConnectionsHang(t *testing.T) {
	r := newRoad(t, time.Hour)
	old, _ := r.connect("")
	r.network.pull()
	r.network.freeze()
	wantReset(t, old)
	client := r.dial()
	r.wantLinks(1)
	r.network.back()
	server := r.accept()
	write(t, server, "welcome")
	wantRead(t, client, "welcome")
}

func TestCloseEndsAFrozenNetworkForGood(t *testing.T) {
	r := newRoad(t, 0)
	client, server := r.connect("")
	r.network.freeze()
	hanging := r.dial()
	r.wantLinks(2)
	r.network.close()
	for _, c := range []net.Conn{client, server, hanging} {
		wantReset(t, c)
	}
	r.wantRefused()
	r.network.back()
	r.wantRefused()
}

// road is a network with a place to come from and a place to go to.
type road struct {
	t       *testing.T
	network *network
	near    net.Listener
	far     chan net.Conn
	hello   string
	helloMu sync.Mutex
}

func newRoad(t *testing.T, lag time.Duration) *road {
	wantNoLeaks(t)
	r := &road{t: t, network: newNetwork(lag), far: make(chan net.Conn, 16)}
	target := listenLoopback(t)
	r.near = listenLoopback(t)
	var carried sync.WaitGroup
	carried.Go(func() {
		for {
			c, err := target.Accept()
			if err != nil {
				return
			}
			r.far <- c
		}
	})
	carried.Go(func() {
		for {
			c, err := r.near.Accept()
			if err != nil {
				return
			}
			carried.Go(func() {
				r.helloMu.Lock()
				hello := []byte(r.hello)
				r.helloMu.Unlock()
				if err := r.network.carry(c, bufio.NewReader(c), target.Addr().String(), hello); err != nil {
					t.Logf("carry: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		r.network.close()
		r.near.Close()
		target.Close()
		carried.Wait()
	})
	return r
}

// connect makes a connection across the network and returns its two ends.
func (r *road) connect(hello string) (client, server net.Conn) {
	r.t.Helper()
	r.helloMu.Lock()
	r.hello = hello
	r.helloMu.Unlock()
	client = r.dial()
	return client, r.accept()
}

func (r *road) dial() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.near.Addr().String())
	if err != nil {
		r.t.Fatalf("dial the network: %v", err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

// wantRefused wants a new connection to be reset, be it before connect returns
// or after.
func (r *road) wantRefused() {
	r.t.Helper()
	c, err := net.Dial("tcp", r.near.Addr().String())
	if err == nil {
		defer c.Close()
		wantReset(r.t, c)
	} else if !errors.Is(err, syscall.ECONNRESET) {
		r.t.Fatalf("dial a network that refuses: %v, want a reset", err)
	}
}

func (r *road) accept() net.Conn {
	r.t.Helper()
	select {
	case c := <-r.far:
		r.t.Cleanup(func() { c.Close() })
		return c
	case <-time.After(patience):
		r.t.Fatal("no connection came out of the network")
		return nil
	}
}

func (r *road) wantLinks(want int) {
	r.t.Helper()
	eventually(r.t, "the network to have the right number of connections", func() bool {
		r.network.mu.Lock()
		defer r.network.mu.Unlock()
		return len(r.network.links) == want
	})
}

func listenLoopback(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func write(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
}

func wantRead(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || string(got) != want {
		t.Fatalf("read: got %q and %v, want %q", got[:n], err, want)
	}
}

func wantEOF(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if n, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("read: got %d bytes and %v, want the end", n, err)
	}
}

// wantReset wants a reset; what came before it may still be read.
func wantReset(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, c); !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("read: got %v, want a reset", err)
	}
}

func wantSilence(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(quiet))
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read: got %d bytes and %v, want silence", n, err)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
	}
}

// wantNoLeaks checks, when the test is over, that it left no goroutine. Call
// it first, so that its check runs last.
func wantNoLeaks(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		for deadline := time.Now().Add(patience); runtime.NumGoroutine() > before; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				stacks := make([]byte, 1<<20)
				t.Errorf("%d goroutines before the test, %d after it:\n%s", before, runtime.NumGoroutine(),
					stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}
