package faults

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

const mib = 1 << 20

// A flood is a backend that sends so many numbered binary messages of one size as fast as they are taken, then
// closes with 1000.
type flood struct {
	addr  string
	sent  atomic.Int64 // messages of the latest connection
	ended chan string  // how each connection ended
}

func startFlood(t *testing.T, count, size int) *flood {
	f := &flood{ended: make(chan string, 100)}
	f.addr = proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
		f.sent.Store(0)
		heard := make(chan string, 1)
		go func() {
			for {
				frame, err := readFrame(conn)
				if err != nil {
					heard <- "broken"
					return
				}
				if frame.op() == closeOp {
					heard <- fmt.Sprint(frame.code())
					return
				}
			}
		}()
		message := []byte(plain(fin|binaryOp, strings.Repeat("\x00", size)))
		for i := range count {
			binary.BigEndian.PutUint64(message[len(message)-size:], uint64(i+1))
			if _, err := conn.Write(message); err != nil {
				break
			}
			f.sent.Add(1)
		}
		io.WriteString(conn, plain(fin|closeOp, closePayload(1000, "")))
		f.ended <- <-heard
	}).Addr()
	return f
}

// stalled waits until the flood goes no further, and returns how much was sent.
func (f *flood) stalled() int64 {
	for last := int64(-1); ; {
		sent := f.sent.Load()
		if sent == last {
			return sent
		}
		last = sent
		time.Sleep(500 * time.Millisecond)
	}
}

// drink reads the numbered messages from the one after before on, until the connection ends, answers pings and a
// Close, and acknowledges where that is asked for.
func drink(w *wire, before int, acks bool) (last, code int, err error) {
	last = before
	for {
		f, err := readFrame(w.r)
		if err != nil {
			return last, code, err
		}
		switch f.op() {
		case ping:
			io.WriteString(w, masked(fin|pong, f.payload))
		case closeOp:
			code = f.code()
			io.WriteString(w, masked(fin|closeOp, f.payload))
		case binaryOp:
			n := int(binary.BigEndian.Uint64([]byte(f.payload)))
			if n != last+1 {
				return last, code, fmt.Errorf("message %d came after message %d", n, last)
			}
			last = n
			if acks && n%4 == 0 {
				io.WriteString(w, masked(fin|text, fmt.Sprintf(`%s{"type":"ack","received":%d}`, "\x1e", n)))
			}
		}
	}
}

// A client that reads nothing while 64 MiB are waiting for it: the backend has to wait, the proxy holds little, and
// once the client reads, everything comes.
func TestClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const count, size = 1024, 64 << 10
	f := startFlood(t, count, size)
	p := startProxy(t, f.addr, settings{"heartbeat.interval": "10m"})
	for _, r := range routes("", f.addr, p.addr)[1:] {
		before, _ := p.resident(t)
		w := mustDial(t, r.addr, r.target(1), r.lines...)
		if sent := f.stalled(); sent == count {
			t.Errorf("%s: the backend could send %d MiB that nobody read", r.name, count*size/mib)
		} else {
			t.Logf("%s: the backend had to wait after %.1f MiB", r.name, float64(sent*size)/mib)
		}
		if _, most := p.resident(t); most > before+24*mib && !raceEnabled {
			t.Errorf("%s: the proxy grew from %d to %d MiB", r.name, before/mib, most/mib)
		}
		w.SetDeadline(time.Now().Add(patience))
		if last, code, err := drink(w, 0, r.lines != nil); last != count || code != 1000 || err != io.EOF {
			t.Errorf("%s: the client then read %d of %d messages, and a Close with %d: %v", r.name, last, count, code, err)
		}
		w.Close()
		<-f.ended
	}
}

// A backend that reads nothing: the client has to wait, the proxy holds little, nobody else notices, and once the
// backend reads, everything comes.
func TestBackendThatDoesNotRead(t *testing.T) {
	t.Parallel()
	const count, size = 1024, 64 << 10
	for _, i := range []int{1, 2, 3} {
		read := make(chan bool)
		got := make(chan error, 1)
		backend := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
			io.WriteString(conn, proxytest.SwitchingProtocols(header))
			if strings.Contains(header, "bystander") {
				for {
					f, err := readFrame(conn)
					if err != nil {
						return
					}
					io.WriteString(conn, plain(f.first, f.payload))
				}
			}
			<-read
			for n := 0; n < count; {
				f, err := readFrame(conn)
				if err != nil {
					got <- fmt.Errorf("after message %d: %w", n, err)
					return
				}
				if f.op() != binaryOp {
					continue
				}
				if k := int(binary.BigEndian.Uint64([]byte(f.payload))); k != n+1 || len(f.payload) != size {
					got <- fmt.Errorf("message %d of %d bytes came after message %d", k, len(f.payload), n)
					return
				}
				n++
			}
			got <- nil
		})
		p := startProxy(t, backend.Addr(), settings{"upstream.heartbeat.interval": "10m"})
		r := routes("", backend.Addr(), p.addr)[i]
		bystander := mustDial(t, p.addr, "/?client_id=bystander")
		before, _ := p.resident(t)
		w := mustDial(t, r.addr, r.target(1), r.lines...)
		var sent atomic.Int64
		go func() {
			payload := make([]byte, size)
			for n := range count {
				binary.BigEndian.PutUint64(payload, uint64(n+1))
				if _, err := io.WriteString(w, masked(fin|binaryOp, string(payload))); err != nil {
					return
				}
				sent.Add(1)
			}
		}()
		for last := int64(-1); sent.Load() != last; time.Sleep(500 * time.Millisecond) {
			last = sent.Load()
			bystander.mustEcho(t, "unharmed")
		}
		if sent.Load() == count {
			t.Errorf("%s: the client could send %d MiB that nobody read", r.name, count*size/mib)
		}
		t.Logf("%s: the client had to wait after %.1f MiB", r.name, float64(sent.Load()*size)/mib)
		if _, most := p.resident(t); most > before+24*mib && !raceEnabled {
			t.Errorf("%s: the proxy grew from %d to %d MiB", r.name, before/mib, most/mib)
		}
		close(read)
		go watch(w, -1, -1)
		if err := <-got; err != nil {
			t.Errorf("%s: %v", r.name, err)
		}
	}
}

// A backend that sends a gigabyte to a client that is away: replay.overflow decides, and memory stays bounded.
func TestFloodWhileAway(t *testing.T) {
	t.Parallel()
	const count, size = 16 << 10, 64 << 10
	away := func(t *testing.T, f *flood, overflow string) (*proxy, int) {
		p := startProxy(t, f.addr, settings{"replay.overflow": overflow, "replay.receipt_interval": "10m", "heartbeat.interval": "10m"})
		before, _ := p.resident(t)
		// The client takes what its system can hold; the rest comes while it is away.
		w := mustDial(t, p.addr, keyed(1))
		w.abort()
		return p, before
	}
	bounded := func(t *testing.T, p *proxy, before int) {
		t.Helper()
		if _, most := p.resident(t); most > before+24*mib && !raceEnabled {
			t.Errorf("the proxy grew from %d to %d MiB", before/mib, most/mib)
		} else {
			t.Logf("the proxy grew from %d to %d MiB", before/mib, most/mib)
		}
	}
	t.Run("end", func(t *testing.T) {
		t.Parallel()
		f := startFlood(t, count, size)
		p, before := away(t, f, "end")
		if end := <-f.ended; end != "1013" {
			t.Errorf("the upstream connection ended with %s, want 1013", end)
		}
		p.waitMetric(t, `tideover_sessions_left_total{reason="overflow"}`, is(1))
		bounded(t, p, before)
	})
	t.Run("drop_oldest", func(t *testing.T) {
		t.Parallel()
		f := startFlood(t, count, size)
		p, before := away(t, f, "drop_oldest")
		for f.sent.Load() < count { // the test's own deadline bounds this
			time.Sleep(20 * time.Millisecond)
		}
		// All but a window full: what was sent last may still be on its way.
		p.waitMetric(t, "tideover_overflow_dropped_messages_total", atLeast(count-mib/size))
		w := mustDial(t, p.addr, keyed(1))
		first, err := w.message()
		if err != nil {
			t.Fatal(err)
		}
		n := int(binary.BigEndian.Uint64([]byte(first.payload)))
		if n < count-mib/size || n > count {
			t.Errorf("the first message after the gap is %d, want one of the last %d", n, mib/size)
		}
		if last, code, err := drink(w, n, false); last != count || code != 1000 {
			t.Errorf("of %d messages, %d … %d came, and a Close with %d: %v", count, n, last, code, err)
		}
		bounded(t, p, before)
		t.Logf("it computed for %v and allocated %d MiB", p.cpu(t), int(p.mustMetrics(t)["go_memstats_alloc_bytes_total"])/mib)
	})
	t.Run("pause", func(t *testing.T) {
		t.Parallel()
		f := startFlood(t, 1024, size)
		p, before := away(t, f, "pause")
		if sent := f.stalled(); sent >= 1024 {
			t.Errorf("the backend could send %d messages to a client that is away", sent)
		}
		w := mustDial(t, p.addr, keyed(1))
		if last, code, err := drink(w, 0, false); last != 1024 || code != 1000 {
			t.Errorf("of 1024 messages %d came, and a Close with %d: %v", last, code, err)
		}
		bounded(t, p, before)
	})
}

// SIGTERM in the middle of a replay: the client gets an unbroken beginning of what it missed and 1012, the backend
// gets 1001, and the program ends with 0.
func TestStopInTheMiddleOfAReplay(t *testing.T) {
	t.Parallel()
	f := startFlood(t, 100_000, 1000)
	p := startProxy(t, f.addr, settings{"replay.max_bytes": "32MiB", "replay.max_messages": 100_000, "replay.overflow": "pause"})
	mustDial(t, p.addr, keyed(1)).abort()
	f.stalled()
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// So that little is under way: the proxy waits a few seconds for a client to take that, and a busy machine is slow.
	conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	w, err := open(conn, keyed(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.message(); err != nil {
		t.Fatal(err)
	}
	p.terminate()
	time.Sleep(100 * time.Millisecond) // so that the client is slower than the proxy
	last, code, err := drink(w, 1, false)
	if code != 1012 || err != io.EOF {
		t.Errorf("after message %d came a Close with %d, %v", last, code, err)
	}
	t.Logf("the client heard %d messages of the replay, then a Close with %d", last, code)
	if end := <-f.ended; end != "1001" {
		t.Errorf("the upstream connection ended with %s, want 1001", end)
	}
	p.stop(t)
}
