package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"unicode/utf8"
)

// Template is the parsed JSON template of an event. The zero Template is empty:
// its event is not emitted. A Template is safe for concurrent use.
type Template struct {
	text  string
	parts []part
}

// part is literal text, followed by a placeholder unless kind is empty.
type part struct {
	literal    string
	kind, name string
}

// IsZero reports whether there is no template, so that nothing is emitted.
func (t Template) IsZero() bool { return t.text == "" }

// String returns the template as it was written.
func (t Template) String() string { return t.text }

const allowedPlaceholders = "${query.NAME}, ${header.NAME}, ${cookie.NAME}, ${session.id}, ${session.key} and ${time}"

// ParseTemplate reads an event template. It may hold the placeholders
// ${query.NAME}, ${header.NAME}, ${cookie.NAME}, ${session.id}, ${session.key} and
// ${time}, all inside JSON strings; any other ${NAME} is filled in at once from
// the environment; $$ is a single $. The template must be valid JSON whatever the
// values are. An empty string is the zero Template.
func ParseTemplate(s string) (Template, error) { return parseTemplate(s, os.LookupEnv) }

func parseTemplate(s string, lookup func(string) (string, bool)) (Template, error) {
	if s == "" {
		return Template{}, nil
	}
	t := Template{text: s}
	var literal []byte
	var quotes quoteState
	add := func(s string) {
		quotes.advance(s)
		literal = append(literal, s...)
	}
	err := scan(s, add, func(name string) error {
		kind, rest, dotted := strings.Cut(name, ".")
		if !dotted && name != "time" {
			v, err := variable(name, lookup)
			if quotes.inside { // there it is a value like any other, and else it may be any JSON
				v = string(appendEscaped(nil, v))
			}
			add(v)
			return err
		}
		p, ok := parsePlaceholder(kind, rest, dotted)
		if !ok {
			return fmt.Errorf("${%s} is unknown; allowed are %s, and ${NAME} for an environment variable", name, allowedPlaceholders)
		}
		if !quotes.inside {
			return fmt.Errorf(`${%s} stands outside of a JSON string; put it in double quotes, as in {"name":"${%s}"}`, name, name)
		}
		p.literal, literal = string(literal), nil
		t.parts = append(t.parts, p)
		return nil
	})
	if err != nil {
		return Template{}, err
	}
	if len(literal) > 0 {
		t.parts = append(t.parts, part{literal: string(literal)})
	}
	// A value's escaped form never ends a string, and z is neither a token of JSON,
	// nor may it follow a backslash or stand among the digits of \u0000. So if this
	// is valid, every placeholder is whole characters of a string, and the template
	// is valid with any values.
	if !json.Valid(t.Append(nil, func(string, string) string { return "z" })) {
		return Template{}, errors.New(`is not valid JSON once filled in; want for example {"type":"user_left","user":"${query.user}"}`)
	}
	return t, nil
}

// parsePlaceholder checks the two halves of a dotted name, or time.
func parsePlaceholder(kind, name string, dotted bool) (part, bool) {
	switch kind {
	case "time":
		return part{kind: kind}, !dotted
	case "session":
		return part{kind: kind, name: name}, name == "id" || name == "key"
	}
	s, err := parseNamed(kind, name, errSource)
	return part{kind: string(s.Kind), name: s.Name}, err == nil
}

// Append appends the filled-in template, valid JSON and valid UTF-8, to dst and
// returns it. value is called for each placeholder with its kind and name: query,
// header (its name in canonical form) or cookie with a name, session with id or
// key, and time with an empty name. What value returns is escaped; an absent value
// is an empty string.
func (t Template) Append(dst []byte, value func(kind, name string) string) []byte {
	for _, p := range t.parts {
		dst = append(dst, p.literal...)
		if p.kind != "" {
			dst = appendEscaped(dst, value(p.kind, p.name))
		}
	}
	return dst
}

// appendEscaped appends s as it stands inside a JSON string (RFC 8259 section 7).
// Bytes that are no UTF-8 become U+FFFD, since the event is a text message
// (RFC 6455 section 5.6).
func appendEscaped(dst []byte, s string) []byte {
	const hex = "0123456789abcdef"
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			dst = append(dst, '\\', byte(r))
		case r < ' ':
			dst = append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			dst = utf8.AppendRune(dst, r)
		}
	}
	return dst
}

// quoteState follows JSON text far enough to know whether it is inside a string.
type quoteState struct {
	inside  bool
	escaped bool // the next byte follows a backslash
}

func (q *quoteState) advance(s string) {
	for i := range len(s) {
		switch {
		case q.escaped:
			q.escaped = false
		case s[i] == '\\':
			q.escaped = q.inside
		case s[i] == '"':
			q.inside = !q.inside
		}
	}
}
