package proxy

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/zap"
	nethtml "golang.org/x/net/html"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/resume"
)

// Whatever a client sends as its handshake, the upstream gets one whole handshake and nothing behind it, for the same
// host and target, and none of the headers that are not the client's to send.
func FuzzClientRequest(f *testing.F) {
	const good = "Host: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + testKey + "\r\n"
	for _, seed := range []string{
		"GET / HTTP/1.1\r\n" + good + "\r\n",
		"GET /a%2Fb?x=y%0d%0aEvil:+1 HTTP/1.1\r\n" + good + "X-A: b\r\nCookie: c=d\r\n\r\n",
		"GET //x?? HTTP/1.1\r\n" + good + "Connection: X-A, close\r\nX-A: b\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\n\r\n",
		"GET http://other/x HTTP/1.1\r\n" + good + "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
		"GET * HTTP/1.1\r\n" + good + "Transfer-Encoding: chunked\r\n\r\n",
		"GET / HTTP/1.1\r\n" + good + "Content-Length: 0\r\nTE: trailers\r\nProxy-Authorization: x\r\nKeep-Alive: 5\r\n\r\n",
		"GET /?client_id=\x00\xff HTTP/1.1\r\n" + good + "\r\n",
	} {
		f.Add(seed)
	}
	d := dialerTo(f, "ws://backend/base?own=1", patience)
	f.Fuzz(func(t *testing.T, raw string) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(raw)))
		if err != nil || !isUpgrade(r) {
			return
		}
		if status, _ := checkUpgrade(r); status != 0 {
			return
		}
		protocols, ok := offeredProtocols(r)
		if !ok {
			return
		}
		offer := resume.ReadOffer(protocols)
		before := r.Header.Clone()
		up := bufio.NewReader(bytes.NewReader(d.request(new(scratch), r, testAddr.String(), offer.App, testKey)))
		got, err := http.ReadRequest(up)
		if err != nil {
			t.Fatalf("the upstream gets no HTTP for %q: %v", raw, err)
		}
		if rest, _ := io.ReadAll(up); len(rest) > 0 || got.ContentLength != 0 || len(got.TransferEncoding) > 0 {
			t.Errorf("the upstream gets %q behind the handshake, which says length %d, %v", rest, got.ContentLength, got.TransferEncoding)
		}
		if got.Method != "GET" || got.Host != r.Host || !isUpgrade(got) {
			t.Errorf("the upstream gets %s for %q of a handshake for %q", got.Method, got.Host, r.Host)
		}
		path, query := rawTarget(r)
		if want := "/base" + path + "?own=1"; path != "*" && !strings.HasPrefix(got.RequestURI, want) || len(query) > 1 && !strings.HasSuffix(got.RequestURI, "&"+query[1:]) {
			t.Errorf("target %q becomes %q", r.RequestURI, got.RequestURI)
		}
		if status, msg := checkUpgrade(got); status != 0 {
			t.Errorf("the upstream must refuse the handshake: %s", msg)
		}
		if for_ := got.Header["X-Forwarded-For"]; !slices.Equal(for_, []string{"192.0.2.7"}) || got.Header["Forwarded"] != nil {
			t.Errorf("the client is said to be at %q, %q", for_, got.Header["Forwarded"])
		}
		for _, name := range []string{"Sec-Websocket-Extensions", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Proxy-Authorization"} {
			if got.Header[name] != nil {
				t.Errorf("%s: %q goes up", name, got.Header[name])
			}
		}
		for name, values := range got.Header {
			if before[name] == nil && !strings.HasPrefix(name, "X-Forwarded-") {
				t.Errorf("%s: %q goes up, and no client has sent it", name, values)
			}
		}
		for _, spec := range [][]string{{"query:client_id"}, {"header:Authorization", "cookie:c"}, {"path"}} {
			if key, _, err := sessionKey(sources(t, spec...), r); err == nil && len(key) > maxKeyBytes {
				t.Errorf("a key of %d bytes from %v", len(key), spec)
			}
			digestOf(sources(t, spec...), r)
		}
		originAllowed([]config.Origin{"https://*.example.com"}, r)
	})
}

// A token has one spelling, and what is none is refused.
func FuzzToken(f *testing.F) {
	f.Add(tokenOf(newID(), newSecret()))
	f.Add(strings.Repeat("A", tokenSize))
	f.Add(strings.Repeat("A", tokenSize-1) + "=")
	f.Add("")
	f.Fuzz(func(t *testing.T, token string) {
		if id, s, ok := readToken(token); ok && tokenOf(id, s) != token {
			t.Errorf("token %q reads as that of %q, whose token is %q", token, id, tokenOf(id, s))
		}
	})
}

// A page keeps each of its bytes whatever they are and however they come, gets one script, and a policy
// can put nothing into that script but attributes.
func FuzzInject(f *testing.F) {
	for _, marked := range pages {
		f.Add(strings.Replace(marked, "@", "", 1), "", byte(0))
	}
	f.Add("<html><head>", `script-src 'nonce-"><b>'`, byte(1))
	f.Add("<!--><head>", "script-src 'self' 'nonce-a', default-src 'nonce-'", byte(2))
	f.Fuzz(func(t *testing.T, in, policy string, pieces byte) {
		body := io.Reader(strings.NewReader(in))
		switch pieces % 3 {
		case 1:
			body = iotest.OneByteReader(body)
		case 2:
			body = iotest.DataErrReader(iotest.HalfReader(body))
		}
		resp := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}, "Content-Security-Policy": {policy}},
			Body: io.NopCloser(body), Request: &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Header: http.Header{"Sec-Fetch-Dest": {"document"}}}}
		(&injector{log: zap.NewNop()}).answer(resp)
		all, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		got := string(all)
		attrs, ok := scriptAttributes([]string{policy})
		if !ok {
			if got != in {
				t.Fatalf("a page that is to be left alone became %q", got)
			}
			return
		}
		script := `<script src="/.tideover/inject.js"` + attrs + `></script>`
		at := 0
		for ; at <= len(in) && !(strings.HasPrefix(got[at:], script) && got[:at] == in[:at] && got[at+len(script):] == in[at:]); at++ {
		}
		if at > len(in) {
			t.Fatalf("%q became %q", in, got)
		}
		z := nethtml.NewTokenizer(strings.NewReader(script))
		z.Next()
		tag := z.Token()
		if z.Next() != nethtml.EndTagToken || z.Token().Data != "script" || z.Next() != nethtml.ErrorToken {
			t.Errorf("the policy %q makes more than a script of %q", policy, script)
		}
		for _, a := range tag.Attr {
			if a.Key != "src" && a.Key != "nonce" && a.Key != "integrity" {
				t.Errorf("the policy %q makes an attribute of %q", policy, script)
			}
		}
	})
}
