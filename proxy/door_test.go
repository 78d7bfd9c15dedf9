package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// answered reads one answer.
func answered(t *testing.T, in *bufio.Reader) (*http.Response, string) {
	t.Helper()
	answer, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatalf("read an answer: %v", err)
	}
	body, err := io.ReadAll(answer.Body)
	if err != nil && answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("read the body of a %d: %v", answer.StatusCode, err)
	}
	return answer, string(body)
}

// A connection may carry plain requests, a handshake that is refused, and the one that is not; all of
// them may come at once.
func TestAConnectionMayBecomeAWebSocketLater(t *testing.T) {
	for _, together := range []bool{false, true} {
		story(t, nil, func(t *testing.T, w *world) {
			w.backend.Answers(func(header string) string {
				if strings.Contains(header, "client_id=no") {
					return proxytest.Refusal(401, "Unauthorized", "log in first")
				}
				return proxytest.SwitchingProtocols(header)
			})
			conn := w.connect()
			in := bufio.NewReader(conn)
			requests := []string{
				"GET /plain HTTP/1.1\r\nHost: x\r\n\r\n",
				proxytest.ClientRequest("/?client_id=no"),
				proxytest.ClientRequest("/?client_id=a") + string(proxytest.Masked(ws.OpText, true, "early")),
			}
			if together {
				requests = []string{strings.Join(requests, "")}
			}
			want := []int{http.StatusUpgradeRequired, http.StatusUnauthorized, http.StatusSwitchingProtocols}
			for i, status := range want {
				if i < len(requests) {
					if _, err := io.WriteString(conn, requests[i]); err != nil {
						t.Fatal(err)
					}
				}
				if answer, body := answered(t, in); answer.StatusCode != status {
					t.Fatalf("request %d is answered with %d %q, want %d", i, answer.StatusCode, body, status)
				}
			}
			w.settle()
			wantTexts(t, w.backend.Peer(0), "the upstream", "early")
			conn.Close()
		})
	}
}

// A refusal leaves the connection to the client's next request, as any other answer does.
func TestAfterARefusalTheConnectionGoesOn(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Answers(func(header string) string {
			if strings.Contains(header, "client_id=no") {
				return proxytest.Refusal(401, "Unauthorized", "log in first")
			}
			return proxytest.SwitchingProtocols(header)
		})
		conn := w.connect()
		in := bufio.NewReader(conn)
		for range 3 {
			io.WriteString(conn, proxytest.ClientRequest("/?client_id=no"))
			if answer, body := answered(t, in); answer.StatusCode != http.StatusUnauthorized || body != "log in first" {
				t.Fatalf("answered with %d %q", answer.StatusCode, body)
			}
		}
		io.WriteString(conn, proxytest.ClientRequest("/?client_id=a"))
		if answer, _ := answered(t, in); answer.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("answered with %d", answer.StatusCode)
		}
		conn.Close()
	})
}

// However a handshake is cut into packets, and whatever comes behind it, it is one handshake.
func TestAHandshakeInPieces(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		const text = "early"
		for i, size := range []int{1, 2, 7, 50, 10_000} {
			request := proxytest.ClientRequest(fmt.Sprintf("/?client_id=%d", i), "Cookie: "+strings.Repeat("c", 2000)) + string(proxytest.Masked(ws.OpText, true, text))
			conn := w.connect()
			for rest := request; rest != ""; {
				n := min(size, len(rest))
				if _, err := io.WriteString(conn, rest[:n]); err != nil {
					t.Fatal(err)
				}
				rest = rest[n:]
				w.settle()
			}
			w.settle()
			wantTexts(t, w.backend.Peer(i), fmt.Sprintf("the upstream, pieces of %d bytes", size), text)
			conn.Close()
		}
	})
}

// Heads that are larger than what the door reads itself are served all the same, up to the limit.
func TestLargeHeads(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		for size, status := range map[int]int{maxHeadBytes - 500: 101, maxHeadBytes: 101, 60 << 10: 101, 100 << 10: 431} {
			v := w.try(fmt.Sprintf("/?client_id=%d", size), "X-Long: "+strings.Repeat("x", size))
			wantRefused(t, v, fmt.Sprintf("a handshake of %d bytes", size), status)
			if status == 101 {
				v.client.Say("hello")
				w.settle()
				wantTexts(t, w.backend.Peer(len(w.backend.Peers())-1), "its upstream", "hello")
			}
		}
	})
}

// A client that goes while its upstream still thinks is not waited for.
func TestDiallingEndsWithTheClient(t *testing.T) {
	story(t, func(c *config.Config) { c.Limits.MaxSessions = 1 }, func(t *testing.T, w *world) {
		w.backend.Late(4 * time.Second)
		for range 3 {
			conn := w.connect()
			io.WriteString(conn, proxytest.ClientRequest("/?client_id=a"))
			w.pass(time.Second)
			conn.Close()
			w.pass(time.Millisecond)
			if n := w.p.live.Load(); n != 0 {
				t.Errorf("%d sessions are being opened for a client that has gone", n)
			}
		}
		w.backend.Late(0)
		c := w.client("/?client_id=a")
		wantOpen(t, c, "a client that stays")
		w.wantMetric(`tideover_upstream_dial_failures_total{kind="timeout"}`, "0")
	})
}

// What a client sends while its upstream thinks is not lost, whether it comes at once or later.
func TestAnEarlyClientOfASlowUpstream(t *testing.T) {
	for name, after := range map[string]time.Duration{"at once": 0, "soon": slowAfter / 2, "late": time.Second} {
		story(t, nil, func(t *testing.T, w *world) {
			w.backend.Late(2 * time.Second)
			conn := w.connect()
			io.WriteString(conn, proxytest.ClientRequest("/?client_id=a")+string(proxytest.Masked(ws.OpText, true, "first"))[:3])
			w.pass(after)
			io.WriteString(conn, string(proxytest.Masked(ws.OpText, true, "first"))[3:]+string(proxytest.Masked(ws.OpText, true, "second")))
			w.pass(2 * time.Second)
			wantTexts(t, w.backend.Peer(0), "the upstream of a client that speaks "+name, "first", "second")
			conn.Close()
			w.settle()
		})
		// And it is still there for net/http, where there is a refusal first.
		story(t, nil, func(t *testing.T, w *world) {
			w.backend.Answers(func(string) string {
				time.Sleep(2 * time.Second)
				return proxytest.Refusal(403, "Forbidden", "no")
			})
			conn := w.connect()
			io.WriteString(conn, proxytest.ClientRequest("/?client_id=a"))
			w.pass(after)
			io.WriteString(conn, "GET /plain HTTP/1.1\r\nHost: x\r\n\r\n")
			w.pass(2 * time.Second)
			in := bufio.NewReader(conn)
			for _, want := range []int{http.StatusForbidden, http.StatusUpgradeRequired} {
				if answer, _ := answered(t, in); answer.StatusCode != want {
					t.Errorf("a client that speaks %s: answered with %d, want %d", name, answer.StatusCode, want)
				}
			}
			conn.Close()
		})
	}
}

// Many handshakes at once, fast ones among slow ones: each has its own answer.
func TestManyAtTheDoor(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.backend.Late(3 * time.Second)
		var slow []<-chan verdict
		for i := range 3 * maxIdleDoormen {
			slow = append(slow, w.begin(fmt.Sprintf("/?client_id=slow%d", i)))
		}
		var silent []net.Conn
		for range maxIdleDoormen {
			silent = append(silent, w.connect())
		}
		w.settle()
		w.backend.Late(0)
		for i := range 3 * maxIdleDoormen {
			c := w.client(fmt.Sprintf("/?client_id=%d", i))
			c.Say("hello")
		}
		w.pass(3 * time.Second)
		for i, v := range slow {
			wantRefused(t, <-v, fmt.Sprintf("slow client %d", i), http.StatusSwitchingProtocols)
		}
		w.wantSessions(6*maxIdleDoormen, 0)
		w.pass(w.cfg.Limits.HandshakeTimeout)
		for _, conn := range silent {
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("a client that says nothing: %v, want it to be cut off", err)
			}
			conn.Close()
		}
	})
}

// A stop does not wait for those who have connected ahead of time, as browsers do.
func TestAStopDoesNotWaitForSilentClients(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		silent, idle := w.connect(), w.connect()
		io.WriteString(idle, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		answered(t, bufio.NewReader(idle))
		if took := w.stopping()(); took > time.Second {
			t.Errorf("the stop took %v though nobody was served", took)
		}
		for _, conn := range []net.Conn{silent, idle} {
			if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("read: %v, want the end", err)
			}
			conn.Close()
		}
	})
}

// A panic in one handshake is the end of that client only.
func TestAPanicAtTheDoor(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		dial := w.dial
		w.dial = nil // planted
		conn := w.connect()
		io.WriteString(conn, proxytest.ClientRequest("/?client_id=a"))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("read: %v, want the end", err)
		}
		conn.Close()
		if n := len(w.logged("made the proxy panic")); n != 1 {
			t.Errorf("%d log lines about it, want one", n)
		}
		w.dial = dial
		wantOpen(t, w.client("/?client_id=b"), "the next client")
		// What the panic has left behind is not this test's business.
		w.p.live.Add(-1)
		w.p.sessions.giveUp(&place{key: "a"})
	})
}

// After a storm nobody is kept waiting for the next one, and the next one is served as ever.
func TestDoormenGoHomeAfterAStorm(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.settle() // until it serves
		d := w.p.door.Load()
		waiting := func() int {
			d.mu.Lock()
			defer d.mu.Unlock()
			if len(d.doormen) != d.idle {
				t.Errorf("%d doormen, of whom %d wait, while there is no client", len(d.doormen), d.idle)
			}
			return d.idle
		}
		for storm := range 2 {
			w.backend.Late(time.Second)
			var clients []<-chan verdict
			for i := range 10 {
				clients = append(clients, w.begin(fmt.Sprintf("/?client_id=%d-%d", storm, i)))
			}
			w.pass(time.Second)
			for _, v := range clients {
				wantRefused(t, <-v, "a client", http.StatusSwitchingProtocols)
			}
			w.settle()
			if n := waiting(); n != 10 {
				t.Errorf("%d doormen wait after 10 handshakes at once, want all", n)
			}
			for _, keep := range []uint64{100, 10, 3, 4, 0, 0} {
				d.sendHome(keep)
				w.settle()
				if want := map[uint64]int{100: 10, 10: 10, 3: 3, 4: 3, 0: 0}[keep]; waiting() != want {
					t.Errorf("%d doormen wait after all but %d were sent home, want %d", waiting(), keep, want)
				}
			}
		}
		w.wantSessions(20, 0)
	})
}

// flaky fails as a system does that has no descriptors left, until it is told to go on.
type flaky struct {
	net.Listener
	out chan bool // closed: descriptors are to be had again
}

func (l *flaky) Accept() (net.Conn, error) {
	select {
	case <-l.out:
		return l.Listener.Accept()
	default:
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
}

func TestWithoutDescriptorsClientsWait(t *testing.T) {
	cfg := config.Default()
	cfg.Admin = config.Admin{}
	p, err := New(cfg, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	public := &flaky{l, make(chan bool)}
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() { ended <- p.serve(ctx, public, nil) }()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "GET /.tideover/client.js HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("read while nobody is accepted: %v", err)
	}
	close(public.out)
	conn.SetReadDeadline(time.Now().Add(proxytest.Patience))
	if answer, _ := answered(t, bufio.NewReader(conn)); answer.StatusCode != http.StatusOK {
		t.Errorf("answered with %d", answer.StatusCode)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
