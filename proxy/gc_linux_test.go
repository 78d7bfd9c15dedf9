package proxy

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
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
	"github.com/tideover/tideover/proxy/session"
)

// BenchmarkGCOfAMillionSessions builds a million attached sessions: relays, cores, timers, registry and all, but legs
// without sockets. An iteration is two cycles of the garbage collector: of the first it tells the CPU
// time, of the second the longest time that a goroutine which works as an event loop does was kept from working.
// Then, for as long, the same goroutine runs beside others that only count, one for each other processor of Go:
// how long they keep it from working is the system's doing and no collector's.
//
//	go test ./proxy -run '^$' -bench GCOfAMillion -benchtime 10x
func BenchmarkGCOfAMillionSessions(b *testing.B) {
	const sessions = 1_000_000
	p := newCrowd(b, sessions)
	runtime.GC()
	debug.SetGCPercent(-1) // only the cycles that are measured
	defer debug.SetGCPercent(100)
	var heap runtime.MemStats
	runtime.ReadMemStats(&heap)
	var stops, without []time.Duration
	var cpu time.Duration
	for b.Loop() {
		before := cpuTime()
		runtime.GC()
		cpu += cpuTime() - before
		began, worst := time.Now(), watchLoop()
		runtime.GC()
		stops = append(stops, worst())
		took := time.Since(began)
		worst = watchLoop()
		keepBusy(runtime.GOMAXPROCS(0)-1, took)
		without = append(without, worst())
	}
	slices.Sort(stops)
	slices.Sort(without)
	b.ReportMetric(cpu.Seconds()*1e3/float64(b.N), "cpu-ms/cycle")
	b.ReportMetric(stops[len(stops)/2].Seconds()*1e3, "median-longest-stop-ms")
	b.ReportMetric(stops[len(stops)-1].Seconds()*1e3, "longest-stop-ms")
	b.ReportMetric(without[len(without)/2].Seconds()*1e3, "median-stop-beside-counting-ms")
	b.ReportMetric(float64(heap.HeapAlloc)/sessions, "B/session")
	b.ReportMetric(float64(heap.HeapObjects)/sessions, "objects/session")
	runtime.KeepAlive(p)
}

// watchLoop runs a goroutine that gives way after each short turn, as an event loop does. What it returns ends it, and
// tells the longest time between two turns.
func watchLoop() (end func() time.Duration) {
	stop, longest := make(chan struct{}), make(chan time.Duration)
	go func() {
		worst := time.Duration(0)
		for last := time.Now(); ; {
			select {
			case <-stop:
				longest <- worst
				return
			default:
			}
			runtime.Gosched()
			now := time.Now()
			worst, last = max(worst, now.Sub(last)), now
		}
	}()
	return func() time.Duration {
		close(stop)
		return <-longest
	}
}

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
		s := &relay{p: p, set: set, id: newID(), key: key, who: set.events.Identify(r)}
		s.core = session.Make(&set.core, session.Keyed, p.numbers.Add(1), rand.Uint64(), p.now())
		addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i >> 14), 1}), uint16(1024+i&0x3fff))
		s.open(up, mine, nil, nil, answer, claim{nonce: rand.Uint64(), remote: addr.String()})
	}
	return p
}

// standInEngine is the real one, timers and all, but for the sockets: a real group has room for its first two legs,
// and a loop has a slot for each leg.
type standInEngine struct {
	engine.Engine
	slots *[]slot
}

type slot struct {
	leg engine.Leg
	_   uint32
}

func (e standInEngine) Group(h engine.Handler) engine.Group {
	return &standInGroup{Group: e.Engine.Group(h), slots: e.slots}
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
