//go:build darwin || linux

package engine

import (
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// raceDetector tells whether the test was built with -race, where sync.Pool drops a part
// of what is put into it, to find more races.
func raceDetector() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// An echoer writes back what comes, frame by frame as a session does.
type echoer struct{ pieces [4][]byte }

func (h *echoer) Data(l Leg, b []byte) int {
	for i := range h.pieces {
		h.pieces[i] = b[i*len(b)/len(h.pieces) : (i+1)*len(b)/len(h.pieces)]
	}
	l.Write(h.pieces[:])
	return len(b)
}

func (*echoer) Writable(Leg)    {}
func (*echoer) Lost(Leg, error) {}
func (*echoer) Expect(Leg, int) {}
func (*echoer) Over()           {}
func (*echoer) Tick()           {}

func TestPortableHotPathAllocatesNothing(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector makes sync.Pool allocate")
	}
	e := NewPortable(Options{})
	defer e.Close()
	a, left := socketPair(t, "tcp", "127.0.0.1:0")
	b, right := socketPair(t, "tcp", "127.0.0.1:0")
	defer left.Close()
	defer right.Close()
	new(relayer).join(e, a, b)
	c, echo := socketPair(t, "tcp", "127.0.0.1:0")
	defer echo.Close()
	e.Group(new(echoer), nil).Add(c, nil).Resume()

	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection empties the pools
	message, got := make([]byte, 4096), make([]byte, 4096)
	turn := func() {
		for _, way := range [][2]net.Conn{{left, right}, {right, left}, {echo, echo}} {
			if _, err := way[0].Write(message); err != nil {
				t.Fatal(err)
			}
			for n := 0; n < len(message); {
				k, err := way[1].Read(got)
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
		}
	}
	for range 100 {
		turn()
	}
	const turns = 2000
	if allocs := testing.AllocsPerRun(turns, turn); allocs >= 1 {
		t.Errorf("three relayed messages cost %v allocations, want none", allocs)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range turns {
		turn()
	}
	runtime.ReadMemStats(&after)
	if n := after.Mallocs - before.Mallocs; n > turns/20 { // the pools and the runtime have a few
		t.Errorf("%d relayed messages cost %d allocations", 3*turns, n)
	}
}

// BenchmarkPortableEcho relays a message from a client to a server that sends it back, through
// two joined legs: two relayed messages an operation.
func BenchmarkPortableEcho(b *testing.B) {
	for _, size := range []int{128, 16 << 10} {
		b.Run(map[int]string{128: "128B", 16 << 10: "16KiB"}[size], func(b *testing.B) {
			e := NewPortable(Options{})
			defer e.Close()
			toClient, client := socketPair(b, "tcp", "127.0.0.1:0")
			toServer, server := socketPair(b, "tcp", "127.0.0.1:0")
			defer client.Close()
			defer server.Close()
			new(relayer).join(e, toClient, toServer)
			go func() {
				m := make([]byte, 64<<10)
				for {
					n, err := server.Read(m)
					if err != nil {
						return
					}
					if _, err := server.Write(m[:n]); err != nil {
						return
					}
				}
			}()
			m := make([]byte, size)
			b.SetBytes(int64(2 * size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := client.Write(m); err != nil {
					b.Fatal(err)
				}
				for n := 0; n < size; {
					k, err := client.Read(m)
					if err != nil {
						b.Fatal(err)
					}
					n += k
				}
			}
		})
	}
}

// BenchmarkPortableIdleLegs reports what an idle leg costs in the process's memory, after each
// has relayed a message.
func BenchmarkPortableIdleLegs(b *testing.B) {
	const legs = 2000
	for b.Loop() {
		measure := func() (heap, stack float64) {
			for range 3 { // stacks shrink, pools empty
				runtime.GC()
				time.Sleep(10 * time.Millisecond)
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return float64(m.HeapAlloc), float64(m.StackInuse)
		}
		e := NewPortable(Options{})
		var ours, peers []net.Conn
		for range legs {
			a, p := socketPair(b, "tcp", "127.0.0.1:0")
			ours, peers = append(ours, a), append(peers, p)
		}
		heap, stack := measure()
		for _, c := range ours {
			e.Group(new(echoer), nil).Add(c, nil).Resume()
		}
		m := make([]byte, 128)
		for _, p := range peers {
			if _, err := p.Write(m); err != nil {
				b.Fatal(err)
			}
			if _, err := p.Read(m); err != nil {
				b.Fatal(err)
			}
		}
		heap2, stack2 := measure()
		b.ReportMetric((heap2-heap)/legs, "heap-B/leg")
		b.ReportMetric((stack2-stack)/legs, "stack-B/leg")
		e.Close()
		for _, p := range peers {
			_ = p.Close()
		}
	}
}
