package proxy

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// However many handshakes wait for their upstream, for a client that does not go, or for each other,
// the next one gets its turn.
func TestHandshakesThatWaitKeepNobodyOut(t *testing.T) {
	story(t, func(c *config.Config) {
		c.Limits.HandshakeTimeout, c.Upstream.ConnectTimeout = time.Hour, time.Hour
	}, func(t *testing.T, w *world) {
		hung := make(chan struct{})
		var answers atomic.Bool
		dial := w.dial
		w.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			if answers.Load() {
				return dial(ctx, network, address)
			}
			select {
			case <-hung:
			case <-ctx.Done():
			}
			return nil, errors.New("there never was an upstream")
		}
		const many = 50
		for i := range many {
			conn, err := w.toPublic(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			key := "hung" // half of them wait for the others
			if i%2 == 0 {
				key += string(rune('a' + i/2))
			}
			go func() {
				_, _ = conn.Write([]byte("GET /?client_id=" + key + " HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
					"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"))
			}()
		}
		synctest.Wait()
		answers.Store(true)
		c := w.client("/?client_id=next")
		wantOpen(t, c, "a client behind those that wait")
		if waited := time.Since(w.start); waited > 0 {
			t.Errorf("the next client waited %v, by a clock that moves only when nobody can go on", waited)
		}
		close(hung)
		synctest.Wait()
	})
}

// While handshakes have work to do, those who come wait outside, but for a few that have had no turn yet.
func TestWhoComesWaitsOutside(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.settle()
		door := w.p.door.Load()
		for range cap(door.works) {
			door.works <- struct{}{}
		}
		const many = 10 * acceptsATurn
		opened := make(chan error)
		for range many {
			go func() {
				conn, err := w.toPublic(t.Context())
				if err == nil {
					defer conn.Close()
					_, _, err = proxytest.OpenClient(t, conn, proxytest.ClientRequest("/"))
				}
				opened <- err
			}()
		}
		synctest.Wait()
		door.mu.Lock()
		in := len(door.doormen)
		door.mu.Unlock()
		if in < 1 || in > acceptsATurn {
			t.Errorf("%d of %d are in while nobody can have a turn, want 1 to %d", in, many, acceptsATurn)
		}
		for range cap(door.works) {
			<-door.works
		}
		for range many {
			if err := <-opened; err != nil {
				t.Error(err)
			}
		}
		w.settle()
	})
}

func TestPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := make(turnstile, 2)
		passes := make([]pass, 3)
		for i := range passes {
			passes[i].at = at
		}
		passes[0].enter()
		passes[0].enter() // inside already
		passes[1].enter()
		third := false
		go func() { passes[2].enter(); third = true }()
		synctest.Wait()
		if third {
			t.Fatal("three are inside, room is for two")
		}
		passes[1].leave()
		passes[1].leave() // outside already
		synctest.Wait()
		if !third {
			t.Fatal("nobody is let in when one has left")
		}
		var free pass
		free.enter()
		free.leave()
	})
}

// The time that a handshake spends in line is not its upstream's: that has answered, however long others take.
func TestTimeInLineIsNotTheUpstreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const timeout = 5 * time.Second
		d := dialerTo(t, "ws://192.0.2.1:80", timeout)
		d.netDial = func(context.Context, string, string) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				r, err := http.ReadRequest(bufio.NewReader(theirs))
				if err != nil {
					return
				}
				io.WriteString(theirs, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
					acceptOf(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
			}()
			return ours, nil
		}
		a := attempt{strict: true, pass: pass{at: make(turnstile, 1)}}
		a.enter()
		over := make(chan struct{})
		go func() { // goes through whenever the handshake waits for something, and takes its time
			defer close(over)
			for range 2 {
				a.pass.at <- struct{}{}
				time.Sleep(10 * timeout)
				<-a.pass.at
			}
		}()
		synctest.Wait()
		conn, err := d.open(&a, handshake(t, "/"), "192.0.2.2:1", nil)
		if err != nil {
			t.Fatal(err)
		}
		conn.Conn.Close()
		a.pass.leave()
		<-over
	})
}
