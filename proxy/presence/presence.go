// Package presence puts the events of sessions (joined, away, reconnected, left) into the
// words that the upstream's application understands: the JSON templates of the configuration.
package presence

import (
	"encoding/binary"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/session"
)

// maxValueBytes bounds what an Identity keeps of one value: no more than browsers let a
// cookie have (RFC 6265, section 6.1). A longer value is cut, and ends in "…" then, so that it
// can't be taken for another one that is complete.
const maxValueBytes = 4096

// timeFormat is RFC 3339 in UTC with milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z"

// A Renderer fills in the templates of events. It is immutable and safe for concurrent
// use.
type Renderer struct {
	templates [session.Left + 1]config.Template
	// sources are the values of a handshake that the templates name, each once.
	sources []config.Source
}

// NewRenderer returns the Renderer of events.
func NewRenderer(events config.Events) *Renderer {
	r := &Renderer{}
	r.templates[session.Joined] = events.Joined
	r.templates[session.Away] = events.Away
	r.templates[session.Reconnected] = events.Reconnected
	r.templates[session.Left] = events.Left
	for _, t := range r.templates {
		t.Append(nil, func(kind, name string) string {
			source := config.Source{Kind: config.Kind(kind), Name: name}
			switch source.Kind {
			case config.KindQuery, config.KindHeader, config.KindCookie:
				if !slices.Contains(r.sources, source) {
					r.sources = append(r.sources, source)
				}
			}
			return ""
		})
	}
	return r
}

// An Identity is what the templates need of a client's handshake, and nothing more: it
// lives as long as its session. It is good only for the Renderer that made it; the zero
// Identity has empty values.
type Identity struct {
	// packed is each value behind its length in two bytes, in the order of Renderer.sources.
	packed string
}

// Identify reads an Identity from r, a session's first handshake. Of it nothing is
// kept alive. An absent value is an empty one. Where a name is repeated, the first query
// parameter or cookie counts; the lines of a header are joined by ", " (RFC 9110,
// section 5.3).
func (r *Renderer) Identify(req *http.Request) Identity {
	if len(r.sources) == 0 {
		return Identity{}
	}
	var packed []byte
	var query url.Values
	for _, source := range r.sources {
		var value string
		switch source.Kind {
		case config.KindQuery:
			if query == nil {
				query = req.URL.Query()
			}
			value = query.Get(source.Name)
		case config.KindHeader:
			value = strings.Join(req.Header.Values(source.Name), ", ")
			if source.Name == "Host" { // net/http keeps it apart
				value = req.Host
			}
		case config.KindCookie:
			if cookie, err := req.Cookie(source.Name); err == nil {
				value = cookie.Value
			}
		}
		value = limit(value)
		packed = binary.BigEndian.AppendUint16(packed, uint16(len(value)))
		packed = append(packed, value...)
	}
	return Identity{packed: string(packed)}
}

// limit cuts a value that is longer than maxValueBytes, between two characters.
func limit(value string) string {
	if len(value) <= maxValueBytes {
		return value
	}
	const mark = "…"
	end := maxValueBytes - len(mark)
	for back := end; back > end-utf8.UTFMax; back-- {
		if utf8.RuneStart(value[back]) {
			end = back
			break
		}
	}
	return value[:end] + mark
}

// at is the value number i.
func (who *Identity) at(i int) string {
	rest := who.packed
	for ; len(rest) >= 2; i-- {
		n := int(rest[0])<<8 | int(rest[1])
		if i == 0 {
			return rest[2 : 2+n]
		}
		rest = rest[2+n:]
	}
	return ""
}

// Emits reports whether event has a template: Append adds nothing otherwise.
func (r *Renderer) Emits(event session.Event) bool {
	return int(event) < len(r.templates) && !r.templates[event].IsZero()
}

// Append appends the message for an event, one JSON text in valid UTF-8, to dst and
// returns it; nothing if the event has no template. sessionID and sessionKey name the
// session, at is the wall clock's time. Values are escaped, and what isn't UTF-8 in them
// becomes U+FFFD.
func (r *Renderer) Append(dst []byte, event session.Event, who *Identity, sessionID, sessionKey string, at time.Time) []byte {
	if !r.Emits(event) {
		return dst
	}
	return r.templates[event].Append(dst, func(kind, name string) string {
		switch kind {
		case "time":
			return at.UTC().Format(timeFormat)
		case "session":
			if name == "key" {
				return sessionKey
			}
			return sessionID
		}
		i := slices.Index(r.sources, config.Source{Kind: config.Kind(kind), Name: name})
		if i < 0 {
			return ""
		}
		return who.at(i)
	})
}
