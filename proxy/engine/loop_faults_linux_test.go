package engine

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// withoutDescriptors runs f while the process can open nothing.
func withoutDescriptors(t *testing.T, f func()) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	none := unix.Rlimit{Max: old.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Fatal(err)
		}
	}()
	f()
}

// A leg that is added while the process has no descriptor to spare is served all the same, beside one of its group
// that is on a loop; and once there are descriptors, loops serve again, even if none could be begun before.
func TestLoopsWithoutDescriptors(t *testing.T) {
	for _, begun := range []bool{true, false} {
		e := New(Options{Loops: 1}).(*loops)
		o := &owner{t: t}
		echo := func(l Leg, b []byte) int {
			l.Write([][]byte{b})
			return len(b)
		}
		o.handle(echo)
		ours, peer := tcpPair(t)
		if begun {
			e.Group(o, nil)
		}
		var leg Leg
		withoutDescriptors(t, func() { leg = e.Group(o, nil).Add(ours, []byte("early ")) })
		if _, looped := leg.(*loopLeg); looped {
			t.Fatalf("begun %v: the leg got a descriptor where there was none", begun)
		}
		leg.Resume()
		send(t, peer, []byte("bird"))
		if got := read(t, peer, 10); string(got) != "early bird" {
			t.Errorf("begun %v: the echo is %q", begun, got)
		}
		ours2, peer2 := tcpPair(t)
		o2 := &owner{t: t}
		o2.handle(echo)
		leg2 := e.Group(o2, nil).Add(ours2, nil)
		if _, looped := leg2.(*loopLeg); !looped {
			t.Errorf("begun %v: with descriptors to spare again, the leg is not on a loop", begun)
		}
		leg2.Resume()
		send(t, peer2, []byte("again"))
		if got := read(t, peer2, 5); string(got) != "again" {
			t.Errorf("begun %v: the echo is %q", begun, got)
		}
		within(t, "Engine.Close", e.Close)
		peer.Close()
		peer2.Close()
	}
}

// A stranger is a Handler that knows its peer by what it says, over and over, and by nothing else.
type stranger struct {
	t    *testing.T
	word []byte
	mu   sync.Mutex
	got  int
	lost int
}

func (s *stranger) Data(_ Leg, b []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, c := range b {
		if c != s.word[(s.got+i)%len(s.word)] {
			s.t.Errorf("byte %d of what %q says is %q", s.got+i, s.word, c)
			break
		}
	}
	s.got += len(b)
	if s.lost > 0 {
		s.t.Errorf("%q speaks after its end", s.word)
	}
	return len(b)
}
func (s *stranger) Writable(Leg)  {}
func (*stranger) Expect(Leg, int) {}
func (*stranger) Over()           {}
func (s *stranger) Tick()         {}
func (s *stranger) Lost(Leg, error) {
	s.mu.Lock()
	s.lost++
	s.mu.Unlock()
}

// Connections come and go so fast that descriptors and slots are used again at once, while the one before still has
// events under way: nobody hears or loses what is another's.
func TestLoopsReuseDescriptors(t *testing.T) {
	const workers, rounds = 8, 150
	e := New(Options{Loops: 2})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	var accept sync.Mutex // who dials accepts
	connect := func() (ours, peer net.Conn) {
		accept.Lock()
		defer accept.Unlock()
		peer, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if ours, err = ln.Accept(); err != nil {
			t.Fatal(err)
		}
		return ours, peer
	}
	var group sync.WaitGroup
	for w := range workers {
		rng := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), uint64(w)))
		group.Go(func() {
			for i := range rounds {
				ours, peer := connect()
				s := &stranger{t: t, word: []byte(fmt.Sprintf("<%d/%d>", w, i))}
				leg := e.Group(s, nil).Add(ours, s.word)
				leg.Resume()
				speech := bytes.Repeat(s.word, 1+rng.IntN(2000))
				switch how := rng.IntN(4); how {
				case 0: // all is heard, then the end
					send(t, peer, speech)
					peer.Close()
				case 1: // aborted in the middle of it
					go func() {
						peer.Write(speech)
						peer.Close()
					}()
					leg.Close(false)
				case 2: // closed politely in the middle of it
					go func() {
						peer.Write(speech)
						io.Copy(io.Discard, peer)
						peer.Close()
					}()
					leg.Close(true)
				case 3: // reset by the peer
					send(t, peer, speech[:len(speech)/2])
					hardClose(peer)
				}
				eventually(t, fmt.Sprintf("%s is lost", s.word), func() bool {
					s.mu.Lock()
					defer s.mu.Unlock()
					return s.lost > 0
				})
			}
		})
	}
	group.Wait()
	within(t, "Engine.Close", e.Close)
}

// A peer that floods has its share of a loop and no more: quiet peers beside it are answered, each in its turn,
// and so is whoever joins.
func TestLoopsAreFair(t *testing.T) {
	e := New(Options{Loops: 1})
	ours, peer := tcpPair(t)
	var flood atomic.Int64
	over := &owner{t: t}
	over.handle(func(_ Leg, b []byte) int {
		flood.Add(int64(len(b)))
		return len(b)
	})
	leg := e.Group(over, nil).Add(ours, nil)
	leg.Resume()
	stop := make(chan struct{})
	var flooding sync.WaitGroup
	flooding.Go(func() {
		b := make([]byte, 1<<20)
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := peer.Write(b); err != nil {
					return
				}
			}
		}
	})
	eventually(t, "the flood begins", func() bool { return flood.Load() > 0 })
	var quiet []net.Conn
	for range 50 {
		ours, peer := tcpPair(t)
		o := &owner{t: t}
		o.handle(func(l Leg, b []byte) int {
			l.Write([][]byte{b})
			return len(b)
		})
		e.Group(o, nil).Add(ours, nil).Resume()
		quiet = append(quiet, peer)
	}
	began := flood.Load()
	for round := range 20 {
		for i, c := range quiet {
			word := fmt.Sprintf("%d/%d", round, i)
			send(t, c, []byte(word))
			if got := read(t, c, len(word)); string(got) != word {
				t.Fatalf("the echo of %q is %q", word, got)
			}
		}
	}
	t.Logf("%.1f MiB of flood between 1000 echoes", float64(flood.Load()-began)/(1<<20))
	eventually(t, "the flood goes on", func() bool { return flood.Load() > began })
	close(stop)
	peer.Close()
	flooding.Wait()
	within(t, "Engine.Close", e.Close)
	for _, c := range quiet {
		c.Close()
	}
}

// Peers that read slowly, or not at all for a while, hold nobody up; each gets all of it in order in the end, each episode
// ends once, and then nothing is held for them.
func TestLoopsWithSlowReaders(t *testing.T) {
	const slow, size = 10, 256 << 10
	e := New(Options{Loops: 1})
	type reader struct {
		o    *owner
		leg  Leg
		peer net.Conn
	}
	var readers []*reader
	for range slow {
		ours, peer := tcpPair(t)
		ours.(*net.TCPConn).SetWriteBuffer(8 << 10)
		peer.(*net.TCPConn).SetReadBuffer(8 << 10)
		r := &reader{o: &owner{t: t}, peer: peer}
		r.leg = e.Group(r.o, nil).Add(ours, nil)
		r.leg.Resume()
		var all [][]byte
		for off := 0; off < size; off += 32 << 10 {
			all = append(all, pattern(off, 32<<10))
		}
		if backlog := r.leg.Write(all); backlog == 0 {
			t.Fatal("256 KiB left no backlog")
		}
		readers = append(readers, r)
	}
	ours, peer := tcpPair(t)
	o := &owner{t: t}
	o.handle(func(l Leg, b []byte) int {
		l.Write([][]byte{b})
		return len(b)
	})
	e.Group(o, nil).Add(ours, nil).Resume()
	echo := func() {
		t.Helper()
		send(t, peer, []byte("quick"))
		if got := read(t, peer, 5); string(got) != "quick" {
			t.Fatalf("beside slow readers the echo is %q", got)
		}
	}
	echo()
	var group sync.WaitGroup
	for i, r := range readers {
		group.Go(func() {
			var got []byte
			for len(got) < size {
				got = append(got, read(t, r.peer, min(1000+i*500, size-len(got)))...)
				if len(got)%7 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
			wantPattern(t, fmt.Sprintf("slow reader %d", i), got, size)
		})
	}
	for range 100 {
		echo()
	}
	group.Wait()
	for i, r := range readers {
		eventually(t, "the episode ends", func() bool { _, writables, _ := r.o.count(); return writables > 0 })
		if _, writables, _ := r.o.count(); writables != 1 {
			t.Errorf("slow reader %d: one episode ended %d times", i, writables)
		}
		if held := r.leg.Stat().Held; held != 0 {
			t.Errorf("slow reader %d: %d bytes are held for what it has read", i, held)
		}
	}
	within(t, "Engine.Close", e.Close)
	peer.Close()
	for _, r := range readers {
		r.peer.Close()
	}
}

// What epoll refuses leaves no trace on the loop, which would wait for its end for ever.
func TestLoopsRefuseWhatCannotBeWatched(t *testing.T) {
	e := New(Options{Loops: 1}).(*loops)
	g := e.Group(&stranger{}, nil).(*loopGroup)
	file, err := unix.Open(t.TempDir(), unix.O_RDONLY|unix.O_CLOEXEC, 0) // epoll_ctl(2): EPERM
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(file)
	conn := &Conn{fd: file}
	for range 2 {
		if l := g.lp.add(g, conn, []byte("early")); l != nil {
			t.Fatal("a directory became a leg")
		}
	}
	if conn.fd != file {
		t.Error("the conn has lost its descriptor")
	}
	g.lp.mu.Lock()
	live, slots := g.lp.live, len(g.lp.slots)
	g.lp.mu.Unlock()
	if live != 0 || g.lp.load.Load() != 0 || slots != 1 {
		t.Errorf("the loop counts %d legs, a load of %d and %d slots; want 0, 0 and one slot that is free again", live, g.lp.load.Load(), slots)
	}
	e.Close()
}
