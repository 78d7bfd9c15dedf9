package engine

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// connPair is a Conn that was dialled and the one that was accepted for it.
func connPair(t *testing.T) (dialled, accepted *Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := Accepting(l, Options{UserTimeout: time.Minute})
	defer a.Close()
	dialled, err = Dialing(netip.MustParseAddrPort(l.Addr().String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := dialled.Connect(nil); err != nil {
		t.Fatal(err)
	}
	conn, err := a.Accept()
	if err != nil {
		t.Fatal(err)
	}
	accepted = conn.(*Conn)
	t.Cleanup(func() { dialled.Close(); accepted.Close() })
	if got, want := accepted.RemoteAddr().String(), dialled.LocalAddr().String(); got != want {
		t.Errorf("the peer is %s, want %s", got, want)
	}
	if got, want := accepted.LocalAddr().String(), dialled.RemoteAddr().String(); got != want || got != l.Addr().String() {
		t.Errorf("accepted on %s, dialled was %s, want %s", got, want, l.Addr())
	}
	return dialled, accepted
}

func TestConnReadsAndWrites(t *testing.T) {
	for _, waits := range []bool{false, true} {
		a, b := connPair(t)
		if waits { // for what is said only then, so that the socket is polled
			time.AfterFunc(20*time.Millisecond, func() { io.WriteString(a, "hello") })
		} else if _, err := io.WriteString(a, "hello"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(b, got); err != nil || string(got) != "hello" {
			t.Fatalf("read %q, %v", got, err)
		}
		// More than the socket takes at once.
		const size = 8 << 20
		go func() {
			b.Write(make([]byte, size))
			b.CloseWrite()
		}()
		if n, err := io.Copy(io.Discard, a); err != nil || n != size {
			t.Errorf("read %d bytes, %v; want %d", n, err, size)
		}
	}
}

// What a connection begins with arrives whether the socket takes it at once or not, and whoever waits is
// told before.
func TestConnectWrites(t *testing.T) {
	for _, size := range []int{1, 8 << 20} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		received, waits := make(chan int64), make(chan struct{})
		if size == 1 {
			close(waits) // a second time would be a panic
		}
		go func() {
			<-waits
			conn, err := l.Accept()
			if err != nil {
				received <- -1
				return
			}
			defer conn.Close()
			n, _ := io.Copy(io.Discard, conn)
			received <- n
		}()
		c, err := Dialing(netip.MustParseAddrPort(l.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		c.BeforeWait(func() { close(waits) })
		if err := c.Connect(make([]byte, size)); err != nil {
			t.Error(err)
		}
		c.CloseWrite()
		if n := <-received; n != int64(size) {
			t.Errorf("%d bytes arrived, want %d", n, size)
		}
		c.BeforeWait(nil)
		c.Close()
	}
}

// Deadlines hold whether they are set before anything waits, or in the middle of it.
func TestConnDeadlines(t *testing.T) {
	a, _ := connPair(t)
	a.SetReadDeadline(time.Unix(1, 0))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !os.IsTimeout(err) {
		t.Errorf("read after the deadline: %v", err)
	}
	a.SetDeadline(time.Unix(1, 0))
	if _, err := a.Write([]byte("x")); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write after the deadline: %v", err)
	}
	a.SetDeadline(time.Time{})
	if _, err := a.Write([]byte("x")); err != nil {
		t.Errorf("write without a deadline: %v", err)
	}
	a.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := a.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("read with a deadline: %v", err)
	}
	a.SetReadDeadline(time.Time{})
	time.AfterFunc(10*time.Millisecond, func() { a.SetReadDeadline(time.Unix(1, 0)) })
	if _, err := a.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("read that is interrupted: %v", err)
	}
}

func TestConnErrors(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := netip.MustParseAddrPort(l.Addr().String())
	l.Close()
	c, err := Dialing(nobody)
	if err != nil {
		t.Fatal(err)
	}
	var op *net.OpError
	if err := c.Connect([]byte("hello")); !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &op) || op.Op != "dial" {
		t.Errorf("connecting to nobody: %v", err)
	}
	c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read after Close: %v", err)
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}

	a, b := connPair(t)
	b.SetDeadline(time.Time{})
	if err := b.control(func(fd int) { unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) }); err != nil {
		t.Fatal(err)
	}
	b.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read after a reset: %v", err)
	}
	a, b = connPair(t)
	b.Close()
	if _, err := a.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("read after the end: %v", err)
	}
}

// A connection that nobody answers is given up at the deadline, whenever that is set.
func TestConnectEndsAtTheDeadline(t *testing.T) {
	// A listener whose queue is full answers no more.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	local, err := localAddr(fd)
	if err != nil {
		t.Fatal(err)
	}
	to := local.addrPort()
	for i := range 3 {
		c, err := Dialing(to)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i == 0 {
			if err := c.Connect(nil); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if i == 1 {
			c.SetDeadline(time.Now().Add(50 * time.Millisecond))
		} else {
			time.AfterFunc(50*time.Millisecond, func() { c.SetDeadline(time.Unix(1, 0)) })
		}
		if err := c.Connect(nil); !os.IsTimeout(errors.Unwrap(err)) {
			t.Errorf("connecting to a full queue: %v, want a timeout", err)
		}
	}
}

// A Conn becomes a leg whether the runtime polls it or not, and leaves no descriptor behind.
func TestConnsBecomeLegs(t *testing.T) {
	for _, polled := range []bool{false, true} {
		e := New(Options{Loops: 1})
		a, b := connPair(t)
		if polled {
			b.SetReadDeadline(time.Now().Add(time.Millisecond))
			b.Read(make([]byte, 1))
		}
		h := &echo{lost: make(chan error, 1)}
		leg := e.Group(h, nil).Add(b, []byte("early "))
		if b.Close() == nil {
			t.Error("what has become a leg can still be closed")
		}
		leg.Resume()
		io.WriteString(a, "hello")
		got := make([]byte, 11)
		a.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(a, got); err != nil || string(got) != "early hello" {
			t.Errorf("polled %t: read %q, %v", polled, got, err)
		}
		a.Close()
		if err := <-h.lost; err != io.EOF {
			t.Errorf("polled %t: lost with %v", polled, err)
		}
		e.Close()
	}
}

// echo says back what it hears.
type echo struct{ lost chan error }

func (h *echo) Data(leg Leg, b []byte) int { leg.Write([][]byte{b}); return len(b) }
func (h *echo) Writable(Leg)               {}
func (h *echo) Lost(_ Leg, err error)      { h.lost <- err }
func (*echo) Expect(Leg, int)              {}
func (*echo) Over()                        {}
func (h *echo) Tick()                      {}
