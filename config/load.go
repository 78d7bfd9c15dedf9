package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// maxFileBytes bounds the size of a configuration file.
const maxFileBytes = 1 << 20

// Load reads and checks the file at path. A file that can be read but not
// accepted gives [Errors].
func Load(path string) (*Config, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	return Parse(path, data)
}

// Parse checks data, the YAML text of a configuration, and returns it with the
// default of each key that is absent. name stands for the file in messages. Any
// error is of type [Errors] and holds every mistake that was found. Parse keeps
// no reference to data.
func Parse(name string, data []byte) (*Config, error) {
	c := Default()
	d := &decoder{file: name, lookup: os.LookupEnv, fields: map[string]field{}, lines: map[string]int{}, bad: map[string]bool{}}
	for _, f := range fields(c) {
		d.fields[f.key] = f
		if !f.refused() {
			d.known = append(d.known, f.key)
		}
	}
	d.document(data)
	if !d.broken {
		c.check(d.lines, d.bad, d.fail)
	}
	if len(d.errs) == 0 {
		return c, nil
	}
	slices.SortStableFunc(d.errs, func(a, b *Error) int { return a.Line - b.Line })
	return nil, d.errs
}

// decoder puts the nodes of one YAML document into the fields of a Config.
type decoder struct {
	file   string
	lookup func(string) (string, bool) // the environment
	fields map[string]field
	known  []string        // keys that work, for suggestions
	lines  map[string]int  // where each key was set
	bad    map[string]bool // keys whose value was not understood
	broken bool            // the document as a whole is of no use
	errs   Errors
}

// fail records a mistake.
func (d *decoder) fail(line int, key, format string, args ...any) {
	d.bad[key] = true
	d.errs = append(d.errs, &Error{File: d.file, Line: line, Key: key, Msg: fmt.Sprintf(format, args...)})
}

// document reads the only document of the file.
func (d *decoder) document(data []byte) {
	d.broken = true
	if len(data) > maxFileBytes {
		d.fail(0, "", "is larger than %s; a configuration needs a few KiB", formatSize(maxFileBytes))
		return
	}
	if line, what := unreadable(data); what != "" {
		d.fail(line, "", "is not YAML: it holds %s; save it as plain UTF-8 text", what)
		return
	}
	docs := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := docs.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		d.syntax(data, err)
		return
	}
	if err := docs.Decode(&second); err == nil {
		d.fail(second.Line, "", `holds a second document after "---"; put everything into one`)
		return
	} else if !errors.Is(err, io.EOF) {
		d.syntax(data, err)
		return
	}
	d.broken = false
	if len(doc.Content) > 0 {
		d.section(doc.Content[0], "")
	}
}

var (
	yamlError = regexp.MustCompile(`^yaml: (?:line (\d+): )?(.*)$`)
	// yamlFromZero matches the messages of the library's parser; those of its
	// scanner count lines from 1.
	yamlFromZero = regexp.MustCompile(`^did not find expected (',' or |'-' |<|key$|node )`)
)

// syntax records an error of the YAML library. The library counts lines from 0 in
// some of its messages and leaves line 1 and unknown anchors without any.
func (d *decoder) syntax(data []byte, err error) {
	line, msg := 1, err.Error()
	if m := yamlError.FindStringSubmatch(msg); m != nil {
		msg = m[2]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
		if m[1] != "" && yamlFromZero.MatchString(msg) {
			line++
		}
	}
	lines := bytes.Split(data, []byte("\n"))
	if name, ok := strings.CutPrefix(msg, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		line = 1 + slices.IndexFunc(lines, func(l []byte) bool { return bytes.Contains(l, []byte("*"+name)) })
	}
	line = max(1, min(line, len(lines))) // a lone CR also breaks a line for the library
	if bytes.Contains(lines[line-1], []byte("${")) {
		msg += `; inside [] and {} a ${NAME} needs quotes`
	}
	d.fail(line, "", "is not YAML: %s", msg)
}

// unreadable finds the first character that YAML does not allow (YAML 1.2
// section 5.1); what is empty if there is none.
func unreadable(data []byte) (line int, what string) {
	line = 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			return line, "a byte that is no UTF-8"
		case r == '\n':
			line++
		case r == '\t', r == '\r', r == 0x85, r == 0xFEFF && i == 0:
		case r < ' ', r >= 0x7F && r < 0xA0, r == 0xFEFF, r == 0xFFFE, r == 0xFFFF:
			return line, fmt.Sprintf("the control character %U", r)
		}
		i += size
	}
	return 0, ""
}

// section reads the keys of a mapping; prefix is empty or ends with a dot.
func (d *decoder) section(n *yaml.Node, prefix string) {
	key := strings.TrimSuffix(prefix, ".")
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n.Line, key, "is an alias; write the value out, aliases are not supported")
		return
	case n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return // all keys of the section are commented out
	case n.Kind != yaml.MappingNode:
		d.fail(n.Line, key, "want keys with values here, such as %q", d.firstBelow(prefix)+": …")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		d.entry(n.Content[i], n.Content[i+1], prefix)
	}
}

// firstBelow names the first key of a section, as an example.
func (d *decoder) firstBelow(prefix string) string {
	for _, k := range d.known {
		if strings.HasPrefix(k, prefix) {
			return k[len(prefix):]
		}
	}
	return "key"
}

// entry reads one key and its value.
func (d *decoder) entry(k, v *yaml.Node, prefix string) {
	if k.Kind != yaml.ScalarNode {
		d.fail(k.Line, strings.TrimSuffix(prefix, "."), "want a plain word as key")
		return
	}
	key := prefix + k.Value
	f, ok := d.fields[key]
	if !ok || strings.Contains(k.Value, ".") { // "session.grace:" on one line is no key
		d.unknown(k.Line, prefix, k.Value)
		return
	}
	if first, ok := d.lines[key]; ok {
		d.fail(k.Line, key, "is given twice, first on line %d; keep one of them", first)
		return
	}
	d.lines[key] = k.Line
	switch {
	case slices.Contains(notYet, key):
		d.fail(k.Line, key, "is not available yet; remove the key")
	case f.section():
		d.section(v, key+".")
	default:
		d.value(f, v)
	}
}

func (d *decoder) unknown(line int, prefix, name string) {
	near := nearest(prefix+name, d.known)
	why := ""
	if strings.Contains(name, ".") {
		why = "; parts of a key go on lines of their own, indented"
	}
	if name == "<<" {
		why = "; merging is not supported"
	}
	if name == "" || oneLine(name) != name || len(name) > 80 {
		name = shown(name)
	}
	d.fail(line, prefix+name, "is not a known key; the nearest is %s%s", near, why)
}
