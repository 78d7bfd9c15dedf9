package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

// parsed is what the door makes of the beginning of a connection.
func parsed(text string) (r *http.Request, end int, ok bool) {
	h := new(head)
	h.n = copy(h.buf[:], text)
	if end = h.end(); end == 0 {
		return nil, 0, false
	}
	r, ok = h.parse(end)
	return r, end, ok
}

// wantAsNetHTTP checks that what the door takes is the request that net/http sees, with all that it looks
// at beyond http.ReadRequest.
func wantAsNetHTTP(t *testing.T, text string) (taken bool) {
	t.Helper()
	got, end, ok := parsed(text)
	if !ok {
		return false
	}
	in := bufio.NewReaderSize(strings.NewReader(text), 2*maxHeadBytes)
	want, err := http.ReadRequest(in)
	if err != nil {
		t.Fatalf("the door takes %q, to net/http it is: %v", text, err)
	}
	if rest := len(text) - in.Buffered(); rest != end {
		t.Fatalf("%q: the head ends at %d, for net/http at %d", text, end, rest)
	}
	if want.ContentLength != 0 || want.TransferEncoding != nil || want.Body != http.NoBody || want.Host == "" {
		t.Fatalf("the door takes %q, to net/http it has a body, or no Host: %+v", text, want)
	}
	for name, values := range want.Header {
		for _, value := range values {
			if strings.ContainsFunc(name, notTokenChar) || strings.ContainsFunc(value, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }) {
				t.Fatalf("the door takes %q with the header %q: %q", text, name, value)
			}
		}
	}
	if got.Method != want.Method || got.RequestURI != want.RequestURI || !reflect.DeepEqual(got.URL, want.URL) || got.Host != want.Host ||
		got.Proto != want.Proto || got.ProtoMajor != 1 || got.ProtoMinor != 1 || !reflect.DeepEqual(got.Header, want.Header) {
		t.Fatalf("%q:\nthe door sees %+v\nnet/http sees %+v", text, got, want)
	}
	return true
}

func TestUsualHandshakesAreTheDoors(t *testing.T) {
	long := "Cookie: " + strings.Repeat("c", 4000)
	for _, lines := range [][]string{
		{}, {"Origin: https://app.example", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)"}, {"X-Empty:", "X-Empty: ", "x-a:b"},
		{"Cookie: a=1", "cookie: b=2", "COOKIE: c=3"}, {"X-Latin: caf\xe9"}, {"X-Tabs: \ta\tb\t"}, {long},
		{"Sec-WebSocket-Protocol: tideover.v1, chat", "Sec-WebSocket-Extensions: permessage-deflate", "Pragma: no-cache", "Cache-Control: no-cache"},
	} {
		if text := proxytest.ClientRequest("/room/%2F?client_id=a&b=c%20d", lines...); !wantAsNetHTTP(t, text+"\x81\x80") {
			t.Errorf("the door leaves %.300q to net/http", text)
		}
	}
}

// Whatever may be read in more than one way is net/http's, which knows what to do.
func TestOddRequestsAreNotTheDoors(t *testing.T) {
	good := "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n"
	if !wantAsNetHTTP(t, good) {
		t.Fatal("the door does not even take a good one")
	}
	with := func(line string) string { return strings.Replace(good, "Upgrade: websocket\r\n", line, 1) }
	many := ""
	for i := range maxHeadLines {
		many += fmt.Sprintf("X-%d: 1\r\n", i)
	}
	for name, text := range map[string]string{
		"line feeds only":        strings.ReplaceAll(good, "\r\n", "\n"),
		"one line feed only":     strings.Replace(good, "a\r\n", "a\n", 1),
		"an end of one feed":     strings.TrimSuffix(good, "\r\n") + "\n",
		"a lone CR":              with("X: a\rb\r\n"),
		"two CRs":                with("X: a\r\r\n"),
		"folded":                 with("X: a\r\n b\r\n"),
		"folded with a tab":      with("X: a\r\n\tb\r\n"),
		"space before the colon": with("X : a\r\n"),
		"no colon":               with("nonsense\r\n"),
		"no name":                with(": a\r\n"),
		"a name in UTF-8":        with("Ä: a\r\n"),
		"a zero":                 with("X: a\x00\r\n"),
		"a DEL":                  with("X: a\x7f\r\n"),
		"a length":               with("Content-Length: 0\r\n"),
		"chunks":                 with("Transfer-Encoding: chunked\r\n"),
		"a trailer":              with("Trailer: X\r\n"),
		"an expectation":         with("Expect: 100-continue\r\n"),
		"Pragma alone":           with("Pragma: no-cache\r\n"),
		"two hosts":              with("host: a\r\n"),
		"no host":                strings.Replace(good, "Host: a\r\n", "", 1),
		"an empty host":          strings.Replace(good, "Host: a", "Host: ", 1),
		"a host with a path":     strings.Replace(good, "Host: a", "Host: a/b", 1),
		"POST":                   strings.Replace(good, "GET", "POST", 1),
		"get":                    strings.Replace(good, "GET", "get", 1),
		"absolute":               strings.Replace(good, "GET /", "GET http://b/", 1),
		"a star":                 strings.Replace(good, "GET /", "GET *", 1),
		"two spaces":             strings.Replace(good, "GET /", "GET  /", 1),
		"a space in the target":  strings.Replace(good, "GET /", "GET / a", 1),
		"UTF-8 in the target":    strings.Replace(good, "GET /", "GET /ä", 1),
		"a bad escape":           strings.Replace(good, "GET /", "GET /%zz", 1),
		"HTTP/1.0":               strings.Replace(good, "1.1", "1.0", 1),
		"HTTP/1.10":              strings.Replace(good, "1.1", "1.10", 1),
		"HTTP/2":                 "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"an empty line first":    "\r\n" + good,
		"nothing but lines":      "\r\n\r\n\r\n",
		"too many lines":         with(many),
	} {
		if wantAsNetHTTP(t, text) {
			t.Errorf("%s: the door takes %q", name, text)
		}
	}
}

// Where the head ends does not depend on how it comes in.
func TestTheEndOfAHead(t *testing.T) {
	for text, want := range map[string]int{"": 0, "a": 0, "a\r\n\r": 0, "a\r\n\r\n": 5, "a\n\nb": 3, "a\n\r\nb": 4, "a\r\nb\r\n\r\nc": 8, "\n\n": 2, "a\n\rb\n\n": 6} {
		h, end := new(head), 0
		for i := 0; i < len(text) && end == 0; i++ {
			h.buf[h.n] = text[i]
			h.n++
			end = h.end()
		}
		if end != want {
			t.Errorf("byte by byte, the head in %q ends at %d, want %d", text, end, want)
		}
		h = new(head)
		h.n = copy(h.buf[:], text)
		if end := h.end(); end != want {
			t.Errorf("at once, the head in %q ends at %d, want %d", text, end, want)
		}
	}
}

// A head that is used again remembers nothing.
func TestAHeadForgets(t *testing.T) {
	h := new(head)
	for _, text := range []string{proxytest.ClientRequest("/a", "Cookie: secret=1", "Cookie: more=2", "X-A: 1"), proxytest.ClientRequest("/b", "X-B: 2")} {
		h.reset()
		h.n = copy(h.buf[:], text)
		r, ok := h.parse(h.end())
		if !ok {
			t.Fatalf("the door leaves %q to net/http", text)
		}
		want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(r.Header, want.Header) {
			t.Errorf("the header is %v, want %v", r.Header, want.Header)
		}
	}
}

func FuzzHead(f *testing.F) {
	f.Add([]byte(proxytest.ClientRequest("/?client_id=a", "Origin: null", "Sec-WebSocket-Protocol: a, b")))
	f.Add([]byte("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n"))
	f.Add([]byte("GET //a@b?%41#c HTTP/1.1\r\nhost:[::1]:80\r\nPragma: no-cache\r\n\r\nrest"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) <= maxHeadBytes {
			wantAsNetHTTP(t, string(text))
		}
	})
}
