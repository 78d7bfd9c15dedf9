package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	nethtml "golang.org/x/net/html"

	"github.com/tideover/tideover/client"
)

// injectPath is where the script that replaces window.WebSocket is served.
const injectPath = "/.tideover/inject.js"

// injectHash is its hash as a Content-Security-Policy or an integrity attribute gives it.
var injectHash = func() string {
	sum := sha256.Sum256(client.Inject)
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}()

// An injector puts the browser client into HTML pages that pass through
// (http.inject_client). It is safe for concurrent use.
type injector struct {
	log *zap.Logger

	mu   sync.Mutex
	next time.Time // of the log line about pages that are left alone
}

// request asks for a body that can be read as it is. Which request leads to a page is not
// known before its answer.
func (j *injector) request(out *http.Request) {
	if out.Method == http.MethodGet && strings.Contains(out.Header.Get("Accept"), "text/html") {
		out.Header.Set("Accept-Encoding", "identity")
		// Part of a page has no place for the script, or a wrong one.
		out.Header.Del("Range")
		out.Header.Del("If-Range")
	}
}

// answer puts the script into the page that resp is, or leaves resp alone.
func (j *injector) answer(resp *http.Response) {
	if resp.Request.Method != http.MethodGet || resp.StatusCode == http.StatusNotModified ||
		resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusPartialContent || resp.Body == nil {
		return
	}
	h := resp.Header
	kind, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil || kind != "text/html" && kind != "application/xhtml+xml" {
		return
	}
	if strings.HasPrefix(strings.ToLower(h.Get("Content-Disposition")), "attachment") {
		return // a download
	}
	if c := strings.ToLower(params["charset"]); strings.HasPrefix(c, "utf-16") || strings.HasPrefix(c, "utf-32") {
		j.leftAlone(resp, "its encoding is "+c)
		return
	}
	if c := h.Get("Content-Encoding"); c != "" && c != "identity" {
		j.leftAlone(resp, "its upstream compressed it although asked not to: "+c)
		return
	}
	attrs, ok := scriptAttributes(h.Values("Content-Security-Policy"))
	if !ok {
		j.leftAlone(resp, "its Content-Security-Policy allows neither 'self' nor a nonce, nor '"+injectHash+"'")
		return
	}
	resp.Body = &page{src: resp.Body, tokens: nethtml.NewTokenizer(resp.Body),
		script: `<script src="` + injectPath + `"` + attrs + `></script>`, whole: navigates(resp.Request)}
	// What describes the bytes as they were is no longer true.
	resp.ContentLength = -1
	for _, name := range []string{"Content-Length", "Content-Md5", "Digest", "Content-Digest", "Repr-Digest", "Accept-Ranges"} {
		h.Del(name)
	}
	// Not the same bytes any more, but the same page.
	if tag := h.Get("Etag"); strings.HasPrefix(tag, `"`) {
		h.Set("Etag", "W/"+tag)
	}
}

// navigates tells whether r asks for a page to show. What scripts fetch is often a part of a page, which a
// script tag in front would break.
func navigates(r *http.Request) bool {
	switch r.Header.Get("Sec-Fetch-Dest") {
	case "document", "iframe", "frame", "embed", "object":
		return true
	case "": // browsers say it to secure origins only
		return strings.Contains(r.Header.Get("Accept"), "application/xhtml+xml")
	}
	return false
}

// leftAlone logs, once a minute at most, that a page does without the client.
func (j *injector) leftAlone(resp *http.Response, why string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if now := time.Now(); !now.Before(j.next) {
		j.next = now.Add(time.Minute)
		j.log.Warn("a page is left without the browser client (http.inject_client)",
			zap.String("path", resp.Request.URL.Path), zap.String("because", why))
	}
}

// scriptAttributes tells which attributes the script needs so that every one of the
// policies lets it run (Content Security Policy Level 3, sections 6.7.2 and 8.4); ok is false if none
// would do.
func scriptAttributes(headers []string) (attrs string, ok bool) {
	nonce, hash := "", false
	for _, header := range headers {
		for policy := range strings.SplitSeq(header, ",") {
			sources, restricted := scriptSources(policy)
			if !restricted {
				continue
			}
			p := readSources(sources)
			switch {
			case p.nonce != "" && (nonce == "" || nonce == p.nonce):
				nonce = p.nonce
			case p.hash:
				hash = true
			case p.self && !p.dynamic:
			default:
				return "", false
			}
		}
	}
	if nonce != "" {
		attrs += ` nonce="` + html.EscapeString(nonce) + `"`
	}
	if hash {
		attrs += ` integrity="` + injectHash + `"`
	}
	return attrs, true
}

// scriptSources finds the directive of a policy that governs script elements.
func scriptSources(policy string) (sources []string, restricted bool) {
	directives := map[string][]string{}
	for d := range strings.SplitSeq(policy, ";") {
		if words := strings.Fields(d); len(words) > 0 {
			name := strings.ToLower(words[0])
			if _, again := directives[name]; !again { // the first one counts
				directives[name] = words[1:]
			}
		}
	}
	for _, name := range []string{"script-src-elem", "script-src", "default-src"} {
		if sources, restricted = directives[name]; restricted {
			return sources, true
		}
	}
	return nil, false
}

// allowance is what a list of sources allows a script of the page's own origin.
type allowance struct {
	nonce               string
	hash, self, dynamic bool
}

func readSources(sources []string) (a allowance) {
	for _, s := range sources {
		lower := strings.ToLower(s)
		switch {
		case lower == "'self'" || s == "*":
			a.self = true
		case lower == "'strict-dynamic'": // then only nonces and hashes count
			a.dynamic = true
		case strings.HasPrefix(lower, "'nonce-") && len(s) > 8 && a.nonce == "":
			a.nonce = s[7 : len(s)-1]
		case s == "'"+injectHash+"'":
			a.hash = true
		}
	}
	return a
}

// A page is an HTML body with a script in it: first in <head>, where the page's own
// scripts find its work done. It streams: what follows is passed on as it comes.
type page struct {
	src    io.ReadCloser
	tokens *nethtml.Tokenizer
	script string
	whole  bool      // a page even if it does not begin like one
	out    []byte    // to be read next
	rest   io.Reader // after the script is in, what follows out
}

// lookahead bounds how much of a page is searched for the place, in bytes.
const lookahead = 64 << 10

func (p *page) Read(b []byte) (int, error) {
	if p.rest == nil {
		p.insert()
	}
	if len(p.out) > 0 {
		n := copy(b, p.out)
		p.out = p.out[n:]
		return n, nil
	}
	return p.rest.Read(b)
}

func (p *page) Close() error { return p.src.Close() }

// insert reads up to where the head begins. Comments, the doctype, white space and <html> may
// stand before it; anything else means that the head has begun without a tag (HTML, section
// 13.2.6.4.3).
func (p *page) insert() {
	var before bytes.Buffer
	p.tokens.SetMaxBuf(lookahead)
	after := []byte(nil) // the token behind the place
	for after == nil {
		kind := p.tokens.Next()
		raw := p.tokens.Raw()
		if kind == nethtml.ErrorToken {
			after = append([]byte{}, raw...)
			break
		}
		switch kind {
		case nethtml.DoctypeToken, nethtml.CommentToken:
			p.whole = p.whole || kind == nethtml.DoctypeToken
			before.Write(raw)
			continue
		case nethtml.TextToken:
			// White space, and a byte order mark at the start.
			if len(bytes.TrimLeft(bytes.TrimPrefix(raw, []byte("\xef\xbb\xbf")), " \t\r\n\f")) == 0 {
				before.Write(raw)
				continue
			}
		case nethtml.StartTagToken:
			raw = append([]byte{}, raw...) // TagName changes it
			switch name, _ := p.tokens.TagName(); string(name) {
			case "html":
				p.whole = true
				before.Write(raw)
				continue
			case "head":
				p.whole = true
				before.Write(raw)
				after = []byte{}
				continue
			}
		}
		after = append([]byte{}, raw...)
	}
	if p.whole {
		before.WriteString(p.script)
	}
	p.out = append(append(before.Bytes(), after...), p.tokens.Buffered()...)
	p.rest = p.src
}

// serveInject serves the script.
func (p *Proxy) serveInject(w http.ResponseWriter, r *http.Request) {
	serveScript(w, r, client.Inject, injectETag)
}
