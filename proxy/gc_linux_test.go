package proxy

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/proxytest"
	"github.com/tideover/tideover/proxy/session"
)

// BenchmarkGCOfAMillionSessions builds a million attached sessions: relays, cores, timers, registry and all, but legs
// without sockets. An iteration is two cycles of the garbage collector: of the first it tells the CPU
// time, of the second how late an event loop was at worst, with one real leg to which another process talks. Then, for as
// long, the same loop runs beside goroutines that only count, one for each other processor of Go, and after that alone:
// what these keep it from working is the system's and the scheduler's doing and no collector's.
//
//	go test ./proxy -run '^$' -bench GCOfAMillion -benchtime 5x
func BenchmarkGCOfAMillionSessions(b *testing.B) {
	const sessions = 1_000_000
	p := newCrowd(b, sessions)
	late := watchLoop(b, p.engine)
	runtime.GC()
	debug.SetGCPercent(-1) // only the cycles that are measured
	defer debug.SetGCPercent(100)
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	var stops, counting, alone []time.Duration
	var cpu time.Duration
	for b.Loop() {
		before := cpuTime()
		runtime.GC()
		cpu += cpuTime() - before
		late()
		began := time.Now()
		runtime.GC()
		took := time.Since(began)
		stops = append(stops, late())
		keepBusy(runtime.GOMAXPROCS(0)-1, took)
		counting = append(counting, late())
		time.Sleep(took)
		alone = append(alone, late())
	}
	for _, of := range []struct {
		what string
		late []time.Duration
	}{{"collector", stops}, {"counting", counting}, {"alone", alone}} {
		slices.Sort(of.late)
		b.ReportMetric(of.late[len(of.late)/2].Seconds()*1e3, "median-longest-stop-"+of.what+"-ms")
		b.ReportMetric(of.late[len(of.late)-1].Seconds()*1e3, "longest-stop-"+of.what+"-ms")
	}
	b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/cycle")
	b.ReportMetric(float64(heap.HeapAlloc)/sessions, "B/session")
	b.ReportMetric(float64(heap.HeapObjects)/sessions, "objects/session")
	runtime.KeepAlive(p)
}

// talkEvery is how often the process that watchLoop starts says something.
const talkEvery = 200 * time.Microsecond

// watchLoop has another process write the time to a leg of e, again and again. Each call of what it returns tells by how
// much the leg's handler came too late at worst, since the call before. It waits for what was said before it was called.
func watchLoop(t testing.TB, e engine.Engine) (late func() time.Duration) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	talker := exec.Command(os.Args[0])
	talker.Env = append(os.Environ(), "TIDEOVER_TEST_TALKER=1")
	talker.Stdout = theirs
	if err := talker.Start(); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	t.Cleanup(func() { _ = talker.Wait() })
	h := new(listener)
	leg := e.(standInEngine).Engine.Group(h, nil).Add(conn, nil)
	leg.Resume()
	t.Cleanup(func() { leg.Close(false) })
	return func() time.Duration {
		t.Helper()
		called, patience := monotonic(), time.Now().Add(proxytest.Patience)
		for h.heard.Load() < called {
			if time.Now().After(patience) {
				t.Fatal("the loop heard nothing of the process that talks to it")
			}
			time.Sleep(talkEvery)
		}
		return time.Duration(h.worst.Swap(0))
	}
}

// init makes a talker of the process that watchLoop starts: it ends when nobody listens any more.
func init() {
	if os.Getenv("TIDEOVER_TEST_TALKER") == "" {
		return
	}
	for {
		if _, err := os.Stdout.Write(binary.NativeEndian.AppendUint64(nil, uint64(monotonic()))); err != nil {
			os.Exit(0)
		}
		time.Sleep(talkEvery)
	}
}

// monotonic is a time that two processes understand, in nanoseconds.
func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // can't fail
	return now.Nano()
}

// A listener notes how late the times come that it is told. Of several at once the first has waited longest.
type listener struct {
	worst atomic.Int64
	heard atomic.Int64 // the last time
	rest  int          // bytes of a time that have come
}

func (l *listener) Data(_ engine.Leg, b []byte) int {
	now := monotonic()
	if l.rest == 0 && len(b) >= 8 {
		said := int64(binary.NativeEndian.Uint64(b))
		l.heard.Store(said)
		late := now - said
		for worst := l.worst.Load(); late > worst && !l.worst.CompareAndSwap(worst, late); worst = l.worst.Load() {
		}
	}
	l.rest = (l.rest + len(b)) % 8
	return len(b)
}

func (*listener) Writable(engine.Leg)    {}
func (*listener) Lost(engine.Leg, error) {}
func (*listener) Expect(engine.Leg, int) {}
func (*listener) Tick()                  {}
func (*listener) Over()                  {}

// keepBusy has n goroutines count for so long.
func keepBusy(n int, duration time.Duration) {
	var over atomic.Bool
	var counting sync.WaitGroup
	for range n {
		counting.Go(func() {
			for !over.Load() {
			}
		})
	}
	time.Sleep(duration)
	over.Store(true)
	counting.Wait()
}

// cpuTime is the CPU time of the process.
func cpuTime() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // can't fail
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// newCrowd returns a proxy with n attached sessions whose legs are stand-ins.
func newCrowd(t testing.TB, n int) *Proxy {
	cfg := config.Default()
	p, err := New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	real := p.engine
	t.Cleanup(real.Close)
	p.engine = standInEngine{real, new([]slot)}
	set := p.settings.Load()
	up := &upstreamConn{}
	answer := []byte("HTTP/1.1 101 Switching Protocols\r\n\r\n")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	for i := range n {
		key := fmt.Sprintf("client-%08d", i)
		r.URL.RawQuery = "client_id=" + key
		_, mine, _ := p.sessions.claim(key)
		p.live.Add(1)
		s := p.newRelay(set)
		s.key, s.who = key, set.events.Identify(r)
		s.core = session.Make(&set.core, session.Keyed, p.numbers.Add(1), rand.Uint64(), p.now())
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 14), 1}), uint16(1024+i&0x3fff))
		s.open(up, mine, nil, nil, answer, claim{nonce: rand.Uint64(), remote: addr.String()})
		s.release()
	}
	return p
}

// standInEngine is the real one, timers and all, but for the sockets: a real group has room for its first two legs,
// and a loop has a slot for each leg. The stand-ins of a group are an object that real sessions don't have.
type standInEngine struct {
	engine.Engine
	slots *[]slot
}

type slot struct {
	leg engine.Leg
	_   uint32
}

func (e standInEngine) Group(h engine.Handler, room *engine.Room) engine.Group {
	return &standInGroup{Group: e.Engine.Group(h, room), slots: e.slots}
}

type standInGroup struct {
	engine.Group
	slots *[]slot
	legs  [2]standInLeg
	n     int
}

func (g *standInGroup) Add(net.Conn, []byte) engine.Leg {
	l := &g.legs[g.n]
	g.n++
	*g.slots = append(*g.slots, slot{leg: l})
	return l
}

type standInLeg struct{ _ byte } // two of them must differ

func (*standInLeg) Write([][]byte) int { return 0 }
func (*standInLeg) Pause()             {}
func (*standInLeg) Resume()            {}
func (*standInLeg) Close(bool)         {}
func (*standInLeg) Stat() engine.Stat  { return engine.Stat{} }
