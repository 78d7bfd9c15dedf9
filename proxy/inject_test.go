package proxy

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const tag = `<script src="/.tideover/inject.js"></script>`

// inject runs an answer through an injector and returns the body and the log.
func inject(t *testing.T, header http.Header, body io.Reader) (string, http.Header, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	resp := &http.Response{StatusCode: 200, Header: header, Body: io.NopCloser(body),
		Request: &http.Request{Method: "GET", URL: &url.URL{Path: "/page"}, Header: http.Header{"Sec-Fetch-Dest": {"document"}}}}
	(&injector{log: zap.New(core)}).answer(resp)
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(got), resp.Header, logs
}

func htmlHeader(more ...string) http.Header {
	h := http.Header{"Content-Type": {"text/html; charset=utf-8"}}
	for i := 0; i < len(more); i += 2 {
		h.Add(more[i], more[i+1])
	}
	return h
}

// @ marks where the script must stand.
var pages = map[string]string{
	"ordinary":               "<!DOCTYPE html>\n<html lang=en>\n<head>@<meta charset=utf-8><script>new WebSocket('/x')</script></head><body></body></html>",
	"upper case, attributes": "<HTML><HEAD PROFILE='a>b' >@<TITLE>x</TITLE>",
	"comment names a head":   "<!-- <head> --><html><!-- x --><head>@<script></script>",
	"no head tag":            "<!doctype html><html>@<script>first()</script><body>",
	"nothing but text":       "@hello",
	"nothing at all":         "@",
	"only a doctype":         "<!doctype html>@",
	"byte order mark":        "\xef\xbb\xbf<!doctype html><html><head>@<p>",
	"header element":         "<html>@<header><head>",
	"unfinished tag":         "<html><head",
}

func TestThePageGetsTheClientFirst(t *testing.T) {
	for name, marked := range pages {
		t.Run(name, func(t *testing.T) {
			in := strings.Replace(marked, "@", "", 1)
			want := strings.Replace(marked, "@", tag, 1)
			if name == "unfinished tag" { // never becomes a tag: what browsers make of it does not matter, the bytes do
				got, _, _ := inject(t, htmlHeader(), strings.NewReader(in))
				if strings.Replace(got, tag, "", 1) != in {
					t.Fatalf("got %q, want %q with the script somewhere", got, in)
				}
				return
			}
			for kind, r := range map[string]io.Reader{
				"at once":           strings.NewReader(in),
				"byte by byte":      iotest.OneByteReader(strings.NewReader(in)),
				"data with the end": iotest.DataErrReader(strings.NewReader(in)),
			} {
				if got, _, _ := inject(t, htmlHeader(), r); got != want {
					t.Errorf("%s: got %q, want %q", kind, got, want)
				}
			}
		})
	}
}

// A script may fetch a part of a page: a tag in front of it would break what it is made into. A whole page may be
// fetched too, by a service worker that keeps it for later.
func TestPartsOfPagesAreLeftAlone(t *testing.T) {
	const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, c := range []struct {
		dest, accept, body string
		want               bool
	}{
		{"empty", "text/html, */*", "<tr><td>1</td></tr>", false},
		{"", "text/html, */*", "<!-- a row --> <tr><td>1</td></tr>", false},
		{"", "*/*", "<div>template</div>", false},
		{"", chrome, "<div>an old page</div>", true},
		{"iframe", "*/*", "<div>an old page</div>", true},
		{"document", chrome, "hello", true},
		{"empty", "*/*", "<!doctype html><title>the app</title>", true},
		{"", "", "<html><title>the app</title>", true},
		{"empty", "*/*", "<head><title>the app</title>", true},
	} {
		core, _ := observer.New(zap.InfoLevel)
		header := http.Header{"Accept": {c.accept}}
		if c.dest != "" {
			header.Set("Sec-Fetch-Dest", c.dest)
		}
		resp := &http.Response{StatusCode: 200, Header: htmlHeader(), Body: io.NopCloser(strings.NewReader(c.body)),
			Request: &http.Request{Method: "GET", URL: &url.URL{Path: "/"}, Header: header}}
		(&injector{log: zap.New(core)}).answer(resp)
		got, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if put := strings.Contains(string(got), tag); put != c.want || strings.Replace(string(got), tag, "", 1) != c.body {
			t.Errorf("fetched for %q, accepting %q: %q became %q, want the script: %v", c.dest, c.accept, c.body, got, c.want)
		}
	}
}

// A long page streams: what follows the head is there before the page ends.
func TestThePageStreams(t *testing.T) {
	src, feed := io.Pipe()
	core, _ := observer.New(zap.InfoLevel)
	resp := &http.Response{StatusCode: 200, Header: htmlHeader(), Body: src, Request: &http.Request{Method: "GET", URL: &url.URL{}}}
	(&injector{log: zap.New(core)}).answer(resp)
	go feed.Write([]byte("<html><head><title>"))
	got := make([]byte, len("<html><head>"+tag+"<title>"))
	if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "<html><head>"+tag+"<title>" {
		t.Fatalf("got %q, %v before the page has ended", got, err)
	}
	feed.CloseWithError(io.ErrUnexpectedEOF)
	if _, err := io.ReadAll(resp.Body); err != io.ErrUnexpectedEOF {
		t.Errorf("a page that breaks off ended with %v, want the upstream's error", err)
	}
}

func TestContentSecurityPolicyDecides(t *testing.T) {
	for _, c := range []struct {
		policies []string
		want     string // the script's tag; "" if the page must be left alone
	}{
		{nil, tag},
		{[]string{"img-src 'none'"}, tag},
		{[]string{"default-src 'self'"}, tag},
		{[]string{"script-src *"}, tag},
		{[]string{"default-src 'none'; script-src 'self'"}, tag},
		{[]string{"SCRIPT-SRC 'SELF'"}, tag},
		{[]string{"default-src 'none'"}, ""},
		{[]string{"script-src https://cdn.example"}, ""},
		{[]string{"script-src 'self'; script-src-elem 'none'"}, ""},
		{[]string{"script-src 'self'; script-src 'none'"}, tag}, // the first one counts
		{[]string{"script-src 'nonce-abc='"}, `<script src="/.tideover/inject.js" nonce="abc="></script>`},
		{[]string{"script-src 'strict-dynamic' 'self'"}, ""},
		{[]string{"script-src 'strict-dynamic' 'nonce-n'"}, `<script src="/.tideover/inject.js" nonce="n"></script>`},
		{[]string{"script-src '" + injectHash + "'"}, `<script src="/.tideover/inject.js" integrity="` + injectHash + `"></script>`},
		{[]string{"script-src 'self'", "script-src 'nonce-n'"}, `<script src="/.tideover/inject.js" nonce="n"></script>`},
		{[]string{"script-src 'self', script-src 'none'"}, ""}, // two policies in one header
		{[]string{"script-src 'nonce-a'", "script-src 'nonce-b'"}, ""},
		{[]string{`script-src 'nonce-"><b>'`}, `<script src="/.tideover/inject.js" nonce="&#34;&gt;&lt;b&gt;"></script>`},
	} {
		h := htmlHeader()
		h["Content-Security-Policy"] = c.policies
		got, _, logs := inject(t, h, strings.NewReader("<head><p>"))
		want := "<head>" + c.want + "<p>"
		if got != want {
			t.Errorf("%q: got %q, want %q", c.policies, got, want)
		}
		if (logs.Len() == 1) != (c.want == "") {
			t.Errorf("%q: %d log lines", c.policies, logs.Len())
		}
	}
}

func TestWhatIsNoPageIsLeftAlone(t *testing.T) {
	for name, h := range map[string]http.Header{
		"json":       {"Content-Type": {"application/json"}},
		"no type":    {},
		"compressed": htmlHeader("Content-Encoding", "gzip"),
		"download":   htmlHeader("Content-Disposition", "attachment; filename=x.html"),
		"utf-16":     {"Content-Type": {"text/html; charset=UTF-16LE"}},
	} {
		h.Set("Content-Length", "6")
		h.Set("Etag", `"1"`)
		got, after, _ := inject(t, h, strings.NewReader("<head>"))
		if got != "<head>" || after.Get("Content-Length") != "6" || after.Get("Etag") != `"1"` {
			t.Errorf("%s: got %q with %v, want it untouched", name, got, after)
		}
	}
}

func TestHeadersOfAChangedPage(t *testing.T) {
	_, h, _ := inject(t, htmlHeader("Content-Length", "6", "Etag", `"1"`, "Digest", "x", "X-Other", "kept"), strings.NewReader("<head>"))
	if h.Get("Content-Length") != "" || h.Get("Digest") != "" || h.Get("Etag") != `W/"1"` || h.Get("X-Other") != "kept" {
		t.Errorf("headers are %v", h)
	}
}

func TestScriptsAreServedWithAnETag(t *testing.T) {
	p := &Proxy{}
	for _, serve := range []http.HandlerFunc{p.serveClient, p.serveInject} {
		w := httptest.NewRecorder()
		serve(w, httptest.NewRequest("GET", "/", nil))
		etag := w.Header().Get("ETag")
		if w.Code != 200 || etag == "" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/javascript") || w.Body.Len() < 1000 {
			t.Fatalf("answer is %d %v, %d bytes", w.Code, w.Header(), w.Body.Len())
		}
		r := httptest.NewRequest("GET", "/", nil)
		r.Header.Set("If-None-Match", etag)
		w = httptest.NewRecorder()
		if serve(w, r); w.Code != http.StatusNotModified {
			t.Errorf("asked again with its ETag: %d, want 304", w.Code)
		}
		w = httptest.NewRecorder()
		if serve(w, httptest.NewRequest("POST", "/", nil)); w.Code != http.StatusMethodNotAllowed {
			t.Errorf("POST: %d, want 405", w.Code)
		}
	}
}
