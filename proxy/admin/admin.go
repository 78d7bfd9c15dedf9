// Package admin serves what operators ask a running proxy: health, metrics and the list of
// sessions. It only reads.
package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Source is what the handler reads from. Its methods are called at any time, from any
// goroutine.
type Source interface {
	// Ready is nil while new sessions are accepted; else the error says, to operators, why
	// not: starting, draining.
	Ready() error
	// Stats sums up the whole proxy. Its counters must never fall, also while sessions come
	// and go: monitoring takes a fall for a restart.
	Stats() Stats
	// Session returns the session with this id, if there is one.
	Session(id string) (Session, bool)
	// Sessions calls f for each session until f returns false. It holds no lock meanwhile:
	// f writes to the network. Sessions that come or go meanwhile may be missed.
	Sessions(f func(Session) bool)
}

// answerTimeout is how long a client may take to read an answer.
const answerTimeout = 30 * time.Second

// NewHandler returns the handler of the admin listener, for GET and HEAD. All paths are
// listed in the answer to any other one.
//
// It has no authentication: who can reach the listener may read everything, session keys
// included. Against web pages that make a browser on the same machine ask for them (DNS
// rebinding), it answers requests that come in on a loopback address only if their Host is
// localhost or an IP address.
func NewHandler(src Source) http.Handler {
	h := &handler{src: src, mux: http.NewServeMux()}
	h.handle("/healthz", "200 while the process is up", h.health)
	h.handle("/readyz", "200 while new sessions are accepted, else 503 and the reason", h.ready)
	h.handle("/metrics", "metrics in the Prometheus text format", metricsHandler(src).ServeHTTP)
	h.handle("/api/sessions", "sessions as JSON; ?limit=N (default 1000), ?state=attached|away", h.sessions)
	h.handle("/api/sessions/{id}", "one session as JSON", h.session)
	h.mux.HandleFunc("/", h.unknown)
	return h
}

type handler struct {
	src   Source
	mux   *http.ServeMux
	paths []path
}

// A path is what the answer to an unknown one lists.
type path struct {
	Path string `json:"path"`
	Is   string `json:"is"`
}

func (h *handler) handle(pattern, is string, serve http.HandlerFunc) {
	h.paths = append(h.paths, path{pattern, is})
	h.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s only answers GET and HEAD", pattern))
			return
		}
		serve(w, r)
	})
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Where the writer has no deadline (in tests) there is nothing to be bounded either.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	if !hostAllowed(r) {
		fail(w, http.StatusForbidden, fmt.Sprintf("on a loopback address, Host must be localhost or an IP address, not %q", r.Host))
		return
	}
	h.mux.ServeHTTP(w, r)
}

// hostAllowed refuses names that a foreign web page may have pointed at this machine.
func hostAllowed(r *http.Request) bool {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if local == nil || !local.IP.IsLoopback() || r.Host == "" {
		return true
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // never leave the machine (RFC 6761, section 6.3)
		return true
	}
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

func (h *handler) health(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusOK, "ok")
}

func (h *handler) ready(w http.ResponseWriter, _ *http.Request) {
	if err := h.src.Ready(); err != nil {
		plain(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
		return
	}
	plain(w, http.StatusOK, "ok")
}

func (h *handler) unknown(w http.ResponseWriter, r *http.Request) {
	answer(w, http.StatusNotFound, struct {
		Error string `json:"error"`
		Paths []path `json:"paths"`
	}{fmt.Sprintf("there is nothing at %s", r.URL.Path), h.paths})
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text+"\n") // there is nobody to tell of an error
}

func fail(w http.ResponseWriter, status int, why string) {
	answer(w, status, struct {
		Error string `json:"error"`
	}{why})
}

func answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
