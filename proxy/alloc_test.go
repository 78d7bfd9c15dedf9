package proxy

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/frame"
)

// rawPair is a session through a real proxy, its two ends as plain connections.
type rawPair struct{ client, upstream net.Conn }

func startRaw(t testing.TB, change func(*config.Config)) rawPair {
	t.Helper()
	backend, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	go http.Serve(backend, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, _, _, err := ws.UpgradeHTTP(r, w); err == nil {
			accepted <- conn
		}
	}))
	cfg := config.Default()
	cfg.Upstream.URL, err = config.ParseURL("ws://" + backend.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	change(cfg)
	p, err := New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	public, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- p.serve(ctx, public, nil) }()
	client, early, _, err := ws.Dial(ctx, "ws://"+public.Addr().String()+"/?client_id=1")
	if err != nil {
		t.Fatal(err)
	}
	if early != nil {
		t.Fatal("frames before any were sent")
	}
	pair := rawPair{client, <-accepted}
	t.Cleanup(func() {
		pair.client.Close()
		pair.upstream.Close()
		cancel()
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		backend.Close()
	})
	return pair
}

// mallocs counts the allocations of the whole process for each of n calls, after a warm-up. It
// takes the best of a few tries: what else runs may allocate, the path under test always does.
func mallocs(n int, f func(i int)) float64 {
	for i := range n {
		f(i)
	}
	best := -1.0
	for try := range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i := range n {
			f((try+1)*n + i)
		}
		runtime.ReadMemStats(&after)
		if each := float64(after.Mallocs-before.Mallocs) / float64(n); best < 0 || each < best {
			best = each
		}
	}
	return best
}

// A few allocations for timers, pings and pool misses are spread over all messages.
const nearlyNothing = 0.05

func TestRelayedMessagesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector, pools forget at random; the test runs without it")
	}
	const messages = 2000
	payload := make([]byte, 128)
	copy(payload, `{"text":"`)
	mask := [4]byte{1, 2, 3, 4}
	up := frame.Append(nil, frame.Text, payload, &mask)
	down := frame.Append(nil, frame.Text, payload, nil)

	t.Run("client to upstream", func(t *testing.T) {
		pair := startRaw(t, func(c *config.Config) { c.Dedup.Enabled = false })
		got := make([]byte, len(up))
		each := mallocs(messages, func(int) {
			must(t, pair.client, up)
			if _, err := io.ReadFull(pair.upstream, got); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%.3f allocations a message", each)
		if each > nearlyNothing {
			t.Errorf("a message from client to upstream costs %.3f allocations, want 0", each)
		}
	})

	t.Run("upstream to client", func(t *testing.T) {
		pair := startRaw(t, func(c *config.Config) {})
		in := bufio.NewReader(pair.client)
		got := make([]byte, len(down))
		var pong []byte
		each := mallocs(messages, func(int) {
			must(t, pair.upstream, down)
			for { // answer the receipts that are asked for
				head, err := in.Peek(2)
				if err != nil {
					t.Fatal(err)
				}
				if head[0]&0x0f == frame.Text {
					break
				}
				ping := got[:2+head[1]&0x7f]
				if _, err := io.ReadFull(in, ping); err != nil {
					t.Fatal(err)
				}
				pong = frame.Append(pong[:0], frame.Pong, ping[2:], &mask)
				must(t, pair.client, pong)
			}
			if _, err := io.ReadFull(in, got); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%.3f allocations a message", each)
		if each > nearlyNothing {
			t.Errorf("a message from upstream to client costs %.3f allocations, want 0", each)
		}
	})

	t.Run("with a new id each", func(t *testing.T) {
		pair := startRaw(t, func(c *config.Config) { c.Dedup.MaxIDs = messages / 2 })
		var msg []byte
		got := make([]byte, 256)
		text, err := json.Marshal(map[string]string{"id": "00000000", "text": "hello"})
		if err != nil {
			t.Fatal(err)
		}
		at := len(`{"id":"`)
		each := mallocs(messages, func(i int) {
			for k := range 8 {
				text[at+7-k] = byte('0' + i%10)
				i /= 10
			}
			msg = frame.Append(msg[:0], frame.Text, text, &mask)
			must(t, pair.client, msg)
			if _, err := io.ReadFull(pair.upstream, got[:len(msg)]); err != nil {
				t.Fatal(err)
			}
		})
		t.Logf("%.3f allocations a message", each)
		if each > nearlyNothing {
			t.Errorf("a message with a new id costs %.3f allocations, want 0", each)
		}
	})
}

func must(t testing.TB, conn net.Conn, b []byte) {
	if _, err := conn.Write(b); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkResume measures from the moment a client dials again to the first replayed byte.
func BenchmarkResume(b *testing.B) {
	pair := startRaw(b, func(c *config.Config) {})
	address := pair.client.RemoteAddr().String()
	msg := frame.Append(nil, frame.Text, []byte("said while it was away"), nil)
	request := "GET /?client_id=1 HTTP/1.1\r\nHost: " + address + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	must(b, pair.upstream, msg)
	conn := pair.client
	var took time.Duration
	for b.Loop() {
		conn.Close()
		time.Sleep(2 * time.Millisecond)
		start := time.Now()
		var err error
		if conn, err = net.Dial("tcp", address); err != nil {
			b.Fatal(err)
		}
		must(b, conn, []byte(request))
		in := bufio.NewReader(conn)
		for line := ""; line != "\r\n"; {
			if line, err = in.ReadString('\n'); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := in.ReadByte(); err != nil {
			b.Fatal(err)
		}
		took += time.Since(start)
	}
	conn.Close()
	b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs/resume")
}
