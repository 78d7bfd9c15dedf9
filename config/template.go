package config

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
