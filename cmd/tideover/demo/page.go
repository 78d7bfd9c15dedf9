package demo

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	maxVisits      = 16
	maxReportBytes = 64 << 10
	refresh        = 200 * time.Millisecond // how often the page hears of changes
	keepAlive      = 15 * time.Second       // and at least, so that a dead page is noticed
)

// policy lets the page use its own files, sockets and frames, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; " +
	"connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"

// page serves the demo's page: its files, its live figures, its switches, and
// the way from each of its chats to that chat's column.
type page struct {
	log     *zap.Logger
	columns []column
	host    string // the host that was asked to listen on, always a good Host
	handler http.Handler

	mu     sync.Mutex
	visits map[string]*visit
}

func newPage(files fs.FS, columns []column, host string, log *zap.Logger) *page {
	p := &page{log: log, columns: columns, host: host, visits: make(map[string]*visit)}
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(files))
	mux.Handle("GET /live", sameOrigin(p.live))
	mux.Handle("POST /visits/{visit}/network", sameOrigin(p.switchNetwork))
	mux.Handle("POST /visits/{visit}/report", sameOrigin(p.report))
	mux.Handle("GET /chat/{visit}/{column}/", sameOrigin(p.chat))
	for _, c := range columns {
		if c.client { // what it puts into its pages is on their origin, which is this one
			mux.Handle("GET /.tideover/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: c.addr}))
		}
	}
	p.handler = p.guard(mux)
	return p
}

func (p *page) ServeHTTP(w http.ResponseWriter, r *http.Request) { p.handler.ServeHTTP(w, r) }

// guard refuses hosts that aren't ours and sets the headers of every answer.
func (p *page) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !p.ownHost(r.Host) {
			http.Error(w, "The demo answers to localhost and to plain IP addresses only.", http.StatusMisdirectedRequest)
			return
		}
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

// ownHost tells whether a Host can be meant for us. A foreign name that was
// made to point here (DNS rebinding) can't; addresses can't be made to point.
func (p *page) ownHost(hostport string) bool {
	host := (&url.URL{Host: hostport}).Hostname()
	return net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") ||
		p.host != "" && strings.EqualFold(host, p.host)
}

// sameOrigin refuses requests that another site's page makes a browser send.
func sameOrigin(next http.HandlerFunc) http.Handler {
	check := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The check takes GET for harmless. Here GET opens sockets and starts
		// peers, so it is checked as if it were a POST.
		asPost := r.WithContext(r.Context())
		asPost.Method = http.MethodPost
		if err := check.Check(asPost); err != nil {
			http.Error(w, "Only the demo's own page may do this.", http.StatusForbidden)
			return
		}
		next(w, r)
	})
}

// live is a visit: it begins with this request and ends with it. The answer is
// a stream of server-sent events, first "visit", then "figures" at each change.
func (p *page) live(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	id := rand.Text()
	if !p.reserve(id) {
		http.Error(w, "Too many open pages; close one.", http.StatusServiceUnavailable)
		return
	}
	defer p.forget(id)
	v, err := newVisit(ctx, id, p.columns, p.log)
	if err != nil {
		if ctx.Err() == nil {
			p.log.Warn("the demo's chat can't be opened", zap.Error(err))
		}
		http.Error(w, "The demo's chat can't be opened; its log tells why.", http.StatusBadGateway)
		return
	}
	defer v.close()
	defer cancel() // before close, which waits for what ctx ends
	p.admit(v)

	w.Header().Set("Content-Type", "text/event-stream")
	out := http.NewResponseController(w)
	if err := sendEvent(w, "visit", p.describe(v)); err != nil {
		return
	}
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	var last []byte
	var lastSent time.Time
	for {
		figures, err := json.Marshal(v.snapshot())
		if err != nil {
			p.log.Error("the demo's figures can't be written", zap.Error(err))
			return
		}
		if !bytes.Equal(figures, last) || time.Since(lastSent) > keepAlive {
			if sendEvent(w, "figures", json.RawMessage(figures)) != nil || out.Flush() != nil {
				return
			}
			last, lastSent = figures, time.Now()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// visitColumn is a column as the page needs it: with the address of its chat.
type visitColumn struct {
	column
	Src string `json:"src"`
}

type visitDescription struct {
	ID      string        `json:"id"`
	Visitor string        `json:"visitor"`
	Columns []visitColumn `json:"columns"`
}

func (p *page) describe(v *visit) visitDescription {
	d := visitDescription{ID: v.id, Visitor: visitor}
	for _, c := range p.columns {
		query := url.Values{"room": {v.room(c)}, "username": {visitor}, "client_id": {v.clientID(visitor)}}
		d.Columns = append(d.Columns, visitColumn{c, "/chat/" + v.id + "/" + c.ID + "/?" + query.Encode()})
	}
	return d
}

func sendEvent(w http.ResponseWriter, name string, data any) error {
	text, err := json.Marshal(data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", name, text)
	return err
}

func (p *page) reserve(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.visits) >= maxVisits {
		return false
	}
	p.visits[id] = nil
	return true
}

func (p *page) admit(v *visit) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.visits[v.id] = v
}

func (p *page) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.visits, id)
}

// visit finds the visit that a request is about, or answers 404.
func (p *page) visit(w http.ResponseWriter, r *http.Request) (*visit, bool) {
	p.mu.Lock()
	v := p.visits[r.PathValue("visit")]
	p.mu.Unlock()
	if v == nil {
		http.Error(w, "No such visit; reload the page.", http.StatusNotFound)
	}
	return v, v != nil
}

func (p *page) switchNetwork(w http.ResponseWriter, r *http.Request) {
	v, ok := p.visit(w, r)
	if !ok {
		return
	}
	var order struct {
		Do string `json:"do"`
	}
	if !readJSON(w, r, &order) {
		return
	}
	switch order.Do {
	case "pull":
		v.network.pull()
	case "freeze":
		v.network.freeze()
	case "back":
		v.network.back()
	default:
		http.Error(w, `"do" must be pull, freeze or back.`, http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (p *page) report(w http.ResponseWriter, r *http.Request) {
	v, ok := p.visit(w, r)
	if !ok {
		return
	}
	var columns map[string]struct {
		Sent  []string `json:"sent"`
		Shown []string `json:"shown"`
	}
	if !readJSON(w, r, &columns) {
		return
	}
	for id, said := range columns {
		if view, ok := v.view(id); ok {
			view.report(said.Sent, said.Shown)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxReportBytes)).Decode(into); err != nil {
		http.Error(w, "The body must be JSON: "+err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

// chat leads from the page to a column: the chat application's files as they
// are, and its socket across the network that the visitor can break.
func (p *page) chat(w http.ResponseWriter, r *http.Request) {
	v, ok := p.visit(w, r)
	if !ok {
		return
	}
	view, ok := v.view(r.PathValue("column"))
	if !ok {
		http.Error(w, "No such column.", http.StatusNotFound)
		return
	}
	prefix := "/chat/" + v.id + "/" + view.ID
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		files := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: view.addr})
		http.StripPrefix(prefix, files).ServeHTTP(w, r)
		return
	}
	out := r.Clone(r.Context())
	out.URL = &url.URL{Path: strings.TrimPrefix(r.URL.Path, prefix), RawQuery: r.URL.RawQuery}
	var hello bytes.Buffer
	if err := out.Write(&hello); err != nil {
		http.Error(w, "The handshake can't be passed on.", http.StatusBadRequest)
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "The connection can't be taken over.", http.StatusInternalServerError)
		return
	}
	if err := v.network.carry(conn, buffered.Reader, view.addr, hello.Bytes()); err != nil {
		p.log.Warn("the demo can't reach its column", zap.String("column", view.ID), zap.Error(err))
	}
}
