package proxy

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

func TestDialBrokenAnswer(t *testing.T) {
	ok := func(lines ...string) func(string) string {
		return func(header string) string { return proxytest.SwitchingProtocols(header, lines...) }
	}
	is := func(answer string) func(string) string { return func(string) string { return answer } }
	edit := func(old, new string) func(string) string {
		return func(header string) string {
			answer := proxytest.SwitchingProtocols(header)
			edited := strings.Replace(answer, old, new, 1)
			if edited == answer {
				t.Errorf("test's own edit %q changes nothing", old)
			}
			return edited
		}
	}
	for _, c := range []struct {
		name   string
		answer func(header string) string
		reason string // in the error
	}{
		{"garbage", is("\x00\x01\x02 nothing\r\n\r\n"), "malformed"},
		{"another protocol", is("SSH-2.0-OpenSSH_9.6\r\n\r\n"), "malformed"},
		{"malformed header line", is("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"), "malformed"},
		{"status below 100", is("HTTP/1.1 099 What\r\n\r\n"), "099"},
		{"bad length", is("HTTP/1.1 400 Bad\r\nContent-Length: -1\r\n\r\n"), "Content-Length"},
		{"huge header", is("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("a", 70<<10) + "\r\n\r\n"), "larger than 65536"},
		{"many headers", is("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: a\r\n", 14<<10) + "\r\n"), "larger than 65536"},
		{"endless interim answers", is(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 20)), "interim"},
		{"wrong accept", edit("Accept: ", "Accept: x"), "Sec-WebSocket-Accept"},
		{"accept of the client's own key", is(proxytest.SwitchingProtocols("\r\nSec-WebSocket-Key: " + testKey)), "Sec-WebSocket-Accept"},
		{"no accept", edit("Sec-WebSocket-Accept", "X-Accept"), "Sec-WebSocket-Accept"},
		{"two accepts", ok("Sec-WebSocket-Accept: x"), "Sec-WebSocket-Accept"},
		{"no Upgrade", edit("Upgrade: websocket\r\n", ""), "Upgrade"},
		{"other Upgrade", edit("Upgrade: websocket", "Upgrade: h2c"), "Upgrade"},
		{"no Connection", edit("Connection: Upgrade\r\n", ""), "Connection"},
		{"other Connection", edit("Connection: Upgrade", "Connection: close"), "Connection"},
		{"HTTP/1.0", edit("HTTP/1.1", "HTTP/1.0"), "HTTP/1.0"},
		{"subprotocol nobody offered", ok("Sec-WebSocket-Protocol: soup"), "soup"},
		{"subprotocol in other case", ok("Sec-WebSocket-Protocol: CHAT"), "CHAT"},
		{"two subprotocols in a line", ok("Sec-WebSocket-Protocol: chat, chat2"), "chat2"},
		{"two subprotocols", ok("Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: chat2"), "chat2"},
		{"extension", ok("Sec-WebSocket-Extensions: permessage-deflate"), "permessage-deflate"},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := serving(t, c.answer)
			d := dialerTo(t, "ws://"+up.Addr(), patience)
			_, err := d.dial(t.Context(), handshake(t, "/"), testAddr, []string{"chat", "chat2"})
			if !errors.Is(err, errBroken) || statusOf(err) != 502 || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v (status %d); want a broken upstream (502) because of %q", err, statusOf(err), c.reason)
			}
			if len(err.Error()) > 2000 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestAcceptOf(t *testing.T) {
	if got := acceptOf(testKey); got != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Errorf("accept of RFC 6455's sample key is %q", got)
	}
}

// Whatever an upstream answers, either it is refused, or it is a 101 that keeps the rules
// and of whose bytes none is lost.
func FuzzReadAnswer(f *testing.F) {
	accept := "Sec-WebSocket-Accept: " + acceptOf(testKey)
	for _, seed := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + accept + "\r\n\r\n\x81\x01x",
		"HTTP/1.1 101 X\r\nupgrade: WebSocket\r\nconnection: a, upgrade\r\n" + accept + "\r\nSec-WebSocket-Protocol: chat\r\nConnection: X-A\r\nX-A: 1\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 401 No\r\nWWW-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nno",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: A\r\n\r\n2\r\nno\r\n0\r\nA: b\r\n\r\n",
		"HTTP/1.1 426 U\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
		"HTTP/1.0 099 X\r\n\r\n", "HTTP/1.1 101 X\r\n: \r\n\r\n", "\r\n\r\n", "",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, sent []byte) {
		conn := bytes.NewReader(sent)
		got, err := readAnswer(conn, new(scratch), testKey, []string{"chat"})
		wantAnswerAsNetHTTP(t, sent, got, err)
		switch {
		case err != nil:
			if got != nil || !errors.Is(err, errBroken) {
				t.Errorf("error %v (with answer %v) is no errBroken", err, got)
			}
		case got.refused != nil:
			if s := got.refused.Status; s < 200 || s > 999 {
				t.Errorf("refusal with status %d, which no server can relay", s)
			}
			io.Copy(io.Discard, got.refused.Body)
		default:
			if got.protocol != "" && got.protocol != "chat" {
				t.Errorf("protocol %q was never offered", got.protocol)
			}
			rest, _ := io.ReadAll(conn)
			if behind := append(got.early, rest...); !bytes.HasSuffix(sent, behind) || len(behind) > 0 && !bytes.HasSuffix(bytes.TrimSuffix(sent, behind), []byte("\n")) {
				t.Errorf("%q is not what follows the header of %q", behind, sent)
			}
			for _, name := range []string{"Connection", "Upgrade", "Transfer-Encoding", "Sec-Websocket-Key", "Sec-Websocket-Accept", "Sec-Websocket-Version",
				"Sec-Websocket-Protocol", "Sec-Websocket-Extensions"} {
				if values := got.header.Values(name); values != nil {
					t.Errorf("header %s %q is not for the client", name, values)
				}
			}
		}
	})
}

// wantAnswerAsNetHTTP: what is taken apart without net/http is the same that net/http makes of it.
func wantAnswerAsNetHTTP(t *testing.T, sent []byte, got *answer, err error) {
	t.Helper()
	want, wantErr := readAnyAnswer(bytes.NewReader(sent), nil, testKey, []string{"chat"})
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
		t.Fatalf("error %v, of net/http %v", err, wantErr)
	}
	if err != nil || want.refused != nil {
		return
	}
	if got.refused != nil || got.protocol != want.protocol || !bytes.Equal(got.early, want.early) || len(got.header)+len(want.header) > 0 && !reflect.DeepEqual(got.header, want.header) {
		t.Errorf("%+v, of net/http %+v", got, want)
	}
}

// The answers of usual backends take the short way, what is odd the long one.
func TestUsualAnswersTakeTheShortWay(t *testing.T) {
	usual := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + acceptOf(testKey) + "\r\n"
	for _, c := range []struct {
		name, sent string
		short      bool
	}{
		{"plain", usual + "\r\n", true},
		{"with a message behind it", usual + "Server: x\r\nSet-Cookie: a\r\nSet-Cookie: b\r\n\r\n\x81\x01x", true},
		{"no reason", strings.Replace(usual, " Switching Protocols", "", 1) + "\r\n", true},
		{"half of it", usual, false},
		{"lines without CR", strings.ReplaceAll(usual, "\r", "") + "\n\r\n\r\n", false},
		{"a length", usual + "Content-Length: 0\r\n\r\n", false},
		{"closing", usual + "Connection: close\r\n\r\n", false},
		{"a wrong accept", strings.Replace(usual, "Accept: ", "Accept: x", 1) + "\r\n", false},
		{"another status", strings.Replace(usual, "101", "1010", 1) + "\r\n", false},
		{"no header", "HTTP/1.1 101\r\n\r\n", false},
	} {
		s := new(scratch)
		if a := s.switched([]byte(c.sent), testKey, []string{"chat"}); (a != nil) != c.short {
			t.Errorf("%s: the short way %t, want %t", c.name, a != nil, c.short)
		}
		got, err := readAnswer(strings.NewReader(c.sent), s, testKey, []string{"chat"})
		wantAnswerAsNetHTTP(t, []byte(c.sent), got, err)
	}
}
