// Package presence renders what the upstream is told about its clients: the messages of
// the events joined, away, reconnected and left.
package presence

import (
	"net/http"
	"slices"
	"time"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/session"
)

// A Renderer turns events into messages by the configured templates. It is safe for
// concurrent use.
type Renderer struct {
	templates [4]config.Template // by session.Event
	needs     []need
}

// A need is a value of the handshake that some template refers to.
type need struct{ kind, name string }

// Identity is what a session's first handshake showed of the values that templates refer to,
// in the order of Renderer.needs. It belongs to the Renderer that made it.
type Identity []string

// NewRenderer returns the Renderer of a validated configuration.
func NewRenderer(e config.Events) *Renderer {
	r := &Renderer{templates: [4]config.Template{
		session.Joined:      e.Joined,
		session.Away:        e.Away,
		session.Reconnected: e.Reconnected,
		session.Left:        e.Left,
	}}
	for _, t := range r.templates {
		// A trial run tells which values it asks for.
		t.Append(nil, func(kind, name string) string {
			n := need{kind, name}
			if ofHandshake(kind) && !slices.Contains(r.needs, n) {
				r.needs = append(r.needs, n)
			}
			return ""
		})
	}
	return r
}

func ofHandshake(kind string) bool { return kind == "query" || kind == "header" || kind == "cookie" }

// Identify keeps of a handshake what the templates will need. What the request does not
// have is empty; of repeated values, the first counts.
func (r *Renderer) Identify(req *http.Request) Identity {
	if len(r.needs) == 0 {
		return nil
	}
	id := make(Identity, len(r.needs))
	query := req.URL.Query()
	for i, n := range r.needs {
		switch n.kind {
		case "query":
			id[i] = query.Get(n.name)
		case "header":
			id[i] = req.Header.Get(n.name)
		case "cookie":
			if c, err := req.Cookie(n.name); err == nil {
				id[i] = c.Value
			}
		}
	}
	return id
}

// Append appends the JSON text for an event of the session, nothing if its template is empty.
// at is the wall clock's time, for ${time}: RFC 3339 in UTC with milliseconds.
func (r *Renderer) Append(dst []byte, event session.Event, who *Identity, sessionID, key string, at time.Time) []byte {
	return r.templates[event].Append(dst, func(kind, name string) string {
		switch {
		case kind == "time":
			return at.UTC().Format("2006-01-02T15:04:05.000Z07:00")
		case kind == "session" && name == "id":
			return sessionID
		case kind == "session" && name == "key":
			return key
		}
		if i := slices.Index(r.needs, need{kind, name}); i >= 0 && i < len(*who) {
			return (*who)[i]
		}
		return ""
	})
}
