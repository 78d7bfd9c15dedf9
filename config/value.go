package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

// value reads a node that is no section into its field.
func (d *decoder) value(f field, n *yaml.Node) {
	switch p := f.value.Addr().Interface().(type) {
	case *bool:
		one(d, f, n, p, parseBool)
	case *int:
		one(d, f, n, p, parseInt)
	case *int64:
		one(d, f, n, p, parseSize)
	case *time.Duration:
		one(d, f, n, p, parseDuration)
	case *Address:
		one(d, f, n, p, text(ParseAddress))
	case *URL:
		one(d, f, n, p, text(ParseURL))
	case *Template:
		d.template(f, n, p)
	case *[]Source:
		list(d, f, n, p, text(ParseSource))
	case *[]uint16:
		list(d, f, n, p, parseCloseCode)
	case *[]Origin:
		list(d, f, n, p, text(ParseOrigin))
	case *[]netip.Prefix:
		list(d, f, n, p, text(parsePrefix))
	default: // string, or a type made from it
		var s string
		one(d, f, n, &s, text(func(s string) (string, error) { return s, f.oneOf(s) }))
		if !d.bad[f.key] {
			f.value.Set(reflect.ValueOf(s).Convert(f.value.Type()))
		}
	}
}

// scalar is one value of the file: its text, and the type that YAML saw in it.
type scalar struct {
	text string
	tag  string // empty if the text came from the environment
}

// one reads a single value.
func one[T any](d *decoder, f field, n *yaml.Node, to *T, parse func(scalar) (T, error)) {
	if n.Kind == yaml.SequenceNode {
		d.fail(n.Line, f.key, "want one value, not a list")
		return
	}
	s, ok := d.scalar(f, n)
	if !ok {
		return
	}
	v, err := parse(s)
	if err != nil {
		d.reject(f, n, s.tag == "", err)
		return
	}
	*to = v
}

// list reads a list of values, none of them twice.
func list[T comparable](d *decoder, f field, n *yaml.Node, to *[]T, parse func(scalar) (T, error)) {
	if n.Kind != yaml.SequenceNode {
		if n.Kind == yaml.AliasNode {
			d.scalar(f, n)
			return
		}
		d.fail(n.Line, f.key, "want a list, such as [a, b]; [] for none")
		return
	}
	*to = nil
	seen := map[T]bool{}
	for _, item := range n.Content {
		s, ok := d.scalar(f, item)
		if !ok {
			continue
		}
		v, err := parse(s)
		if err == nil && seen[v] {
			err = errors.New("is listed twice")
		}
		if err != nil {
			d.reject(f, item, s.tag == "", err)
			continue
		}
		seen[v] = true
		*to = append(*to, v)
	}
}

// reject records that the value of a node was refused. What came from the
// environment may be secret: then the message shows the node as it was written.
func (d *decoder) reject(f field, n *yaml.Node, fromEnv bool, err error) {
	note := ""
	if fromEnv {
		note = " (with the environment filled in)"
	}
	d.fail(n.Line, f.key, "%s%s: %v", shown(n.Value), note, err)
}

// scalar returns the text of a node, with variables of the environment filled in.
func (d *decoder) scalar(f field, n *yaml.Node) (scalar, bool) {
	tag := n.ShortTag()
	switch {
	case n.Kind == yaml.AliasNode:
		d.fail(n.Line, f.key, "is an alias; write the value out, aliases are not supported")
		return scalar{}, false
	case n.Kind != yaml.ScalarNode:
		d.fail(n.Line, f.key, "want one value here, without keys or lists below it")
		return scalar{}, false
	case tag == "!!null":
		d.fail(n.Line, f.key, "has no value; give it one, or remove the key for its default")
		return scalar{}, false
	case tag != "!!str":
		return scalar{text: n.Value, tag: tag}, true
	}
	text, filled, err := d.expand(n.Value)
	if err != nil {
		d.reject(f, n, false, err)
		return scalar{}, false
	}
	if filled {
		tag = ""
	}
	return scalar{text: text, tag: tag}, true
}

// expand fills in variables; filled tells whether there was one.
func (d *decoder) expand(s string) (text string, filled bool, err error) {
	var b strings.Builder
	err = scan(s, func(literal string) { b.WriteString(literal) }, func(name string) error {
		if strings.Contains(name, ".") {
			return fmt.Errorf("${%s} has a meaning in event templates only; write $${%s} for the text itself", name, name)
		}
		v, err := variable(name, d.lookup)
		b.WriteString(v)
		filled = true
		return err
	})
	return b.String(), filled, err
}

// template reads an event template, in which ${NAME} may also be a placeholder.
func (d *decoder) template(f field, n *yaml.Node, to *Template) {
	if n.Kind == yaml.ScalarNode && n.ShortTag() == "!!str" {
		t, err := parseTemplate(n.Value, d.lookup)
		if err != nil {
			d.reject(f, n, false, err)
		}
		*to = t
		return
	}
	hint := ""
	if n.Kind == yaml.MappingNode {
		hint = "; put the JSON in single quotes"
	}
	d.fail(n.Line, f.key, `want a JSON template as text, such as '{"type":"user_left"}', or "" for none%s`, hint)
}

// scan goes through s, which may hold ${NAME}, and $$ for a single $; any other $
// stands for itself.
func scan(s string, literal func(string), name func(string) error) error {
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			literal(s)
			return nil
		}
		switch s[i+1] {
		case '$':
			literal(s[:i+1])
			s = s[i+2:]
		case '{':
			literal(s[:i])
			s = s[i+2:]
			end := strings.IndexByte(s, '}')
			if end < 0 {
				return errors.New(`has "${" without "}"; write $${ for the text itself`)
			}
			if err := name(s[:end]); err != nil {
				return err
			}
			s = s[end+1:]
		default:
			literal(s[:i+1])
			s = s[i+1:]
		}
	}
}

// variable returns the value of an environment variable.
func variable(name string, lookup func(string) (string, bool)) (string, error) {
	for i := range len(name) {
		c := name[i]
		if !(c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || i > 0 && c >= '0' && c <= '9') {
			name = ""
			break
		}
	}
	if name == "" {
		return "", errors.New("want ${NAME}, the name of an environment variable made of letters, digits and _; write $$ for a single $")
	}
	v, ok := lookup(name)
	switch {
	case !ok:
		return "", fmt.Errorf("the environment variable %s is not set; set it, or write $${%s} for the text itself", name, name)
	case !utf8.ValidString(v):
		return "", fmt.Errorf("the environment variable %s is not UTF-8 text", name)
	}
	return v, nil
}

// text makes a parser of strings one that refuses what YAML reads as something
// else, such as a number.
func text[T any](parse func(string) (T, error)) func(scalar) (T, error) {
	return func(s scalar) (T, error) {
		v, err := parse(s.text)
		if err == nil && s.tag != "" && s.tag != "!!str" {
			return v, errors.New("want text; put it in quotes")
		}
		return v, err
	}
}

func parseBool(s scalar) (bool, error) {
	if s.tag == "!!bool" || s.tag == "" {
		switch s.text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
	}
	return false, errors.New("want true or false, without quotes")
}

// decimal reads digits without a sign or leading zeros, which some read as octal.
func decimal(s string) (int64, bool) {
	if len(s) > 1 && s[0] == '0' || strings.ContainsAny(s, "+-") {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

func parseInt(s scalar) (int, error) {
	n, ok := decimal(strings.TrimPrefix(s.text, "-"))
	if !ok || n > math.MaxInt32 || s.tag == "!!str" {
		return 0, fmt.Errorf("want a whole number up to %d in plain digits, without quotes", math.MaxInt32)
	}
	if strings.HasPrefix(s.text, "-") {
		n = -n
	}
	return int(n), nil
}

func parseCloseCode(s scalar) (uint16, error) {
	n, err := parseInt(s)
	if err != nil {
		return 0, err
	}
	if !closeCode(n) {
		return 0, errCloseCode
	}
	return uint16(n), nil
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

func parseSize(s scalar) (int64, error) {
	digits, unit := s.text, int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(s.text, u.name); ok {
			digits, unit = rest, u.bytes
		}
	}
	n, ok := decimal(digits)
	if !ok || n > maxSize/unit {
		return 0, fmt.Errorf("want a size such as 64KiB, 1MiB or 2GiB, or a plain number of bytes, at most %s", formatSize(maxSize))
	}
	return n * unit, nil
}

func parseDuration(s scalar) (time.Duration, error) {
	v, err := time.ParseDuration(s.text)
	if err != nil {
		return 0, errors.New("want a duration with its unit, such as 250ms, 30s, 1m30s or 2h")
	}
	return v, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New("want a CIDR such as 10.0.0.0/8 or 2001:db8::/32")
	}
	if p != p.Masked() {
		return p, fmt.Errorf("has bits behind its prefix; did you mean %v?", p.Masked())
	}
	return p, nil
}
