package proxy

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tideover/tideover/config"
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
