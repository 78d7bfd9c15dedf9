package engine

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/pprof"
	"testing"
)

// BenchmarkLoopIdleTLSLegs tells what an idle leg with TLS costs: B/leg is the growth of the heap. The other ends
// are in the same process, and what they take is measured before.
func BenchmarkLoopIdleTLSLegs(b *testing.B) {
	const legs = 1000
	heap := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	for b.Loop() {
		e := New(Options{Loops: 1})
		g := e.Group(new(echoer), nil)
		conf := &tls.Config{Certificates: []tls.Certificate{certificate()}}
		var ours, peers []net.Conn
		for range legs {
			o, p := socketPair(b, "tcp", "127.0.0.1:0")
			ours, peers = append(ours, o), append(peers, p)
		}
		before := heap()
		done := make(chan *tls.Conn, legs)
		for i := range ours {
			go func() {
				c := tls.Client(peers[i], &tls.Config{InsecureSkipVerify: true})
				if err := c.Handshake(); err != nil {
					b.Error(err)
				}
				done <- nil
			}()
			s := ServerTLS(ours[i], conf)
			if err := s.Handshake(); err != nil {
				b.Fatal(err)
			}
			ours[i] = nil
			g.Add(s, nil).Resume()
			<-done
		}
		b.ReportMetric(float64(heap()-before)/legs, "B/leg")
		if name := os.Getenv("HEAPPROF"); name != "" {
			f, _ := os.Create(name)
			pprof.WriteHeapProfile(f)
			f.Close()
		}
		e.Close()
		for _, p := range peers {
			p.Close()
		}
	}
}

// crypto/tls allocates one small object for each read of a record, the leg's peer here included, and one to find that
// there is no more. Nothing else is allocated on the way.
func TestLoopTLSAllocates(t *testing.T) {
	if raceDetector() {
		t.Skip("the race detector makes sync.Pool allocate")
	}
	for size, most := range map[int]float64{128: 3, 4096: 3, recordPlain: 5} {
		ours, peer := tlsPair(t)
		e := New(Options{Loops: 1})
		e.Group(new(echoer), nil).Add(ours, nil).Resume()
		message, got := make([]byte, size), make([]byte, size)
		turn := func() {
			if _, err := peer.Write(message); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(peer, got); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			turn()
		}
		if allocated := testing.AllocsPerRun(200, turn); allocated > most {
			t.Errorf("%d bytes there and back: %v allocations, want at most %v", size, allocated, most)
		}
		peer.Close()
		e.Close()
	}
}
