package config

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// Error is one mistake in a configuration.
type Error struct {
	File string // as it was given to Load or Parse; empty for a Config built in code
	Line int    // from 1; 0 where there is none
	Key  string // the full key, such as session.grace; empty if the file as a whole is wrong
	Msg  string // what is wrong, and what is allowed
}

// Error returns the mistake as one line: FILE:LINE: KEY: MESSAGE.
func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(oneLine(e.File))
		if e.Line > 0 {
			b.WriteString(":" + strconv.Itoa(e.Line))
		}
		b.WriteString(": ")
	}
	if e.Key != "" {
		b.WriteString(oneLine(e.Key) + ": ")
	}
	return b.String() + oneLine(e.Msg)
}

// Errors is every mistake of a configuration, in the order of lines.
type Errors []*Error

// Error returns all mistakes, one a line.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets [errors.As] find the first [*Error].
func (es Errors) Unwrap() []error {
	errs := make([]error, len(es))
	for i, e := range es {
		errs[i] = e
	}
	return errs
}

// oneLine quotes what would break a line or a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '�'
	}, s)
}

// shown quotes a user's value for a message, shortened if it is long.
func shown(s string) string {
	const most = 80
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if strings.Contains(s, `"`) && !strings.Contains(s, "'") && oneLine(s) == s {
		return "'" + s + "'" // JSON stays readable
	}
	return strconv.Quote(s)
}

// nearest returns that of the known keys which the user most likely meant by
// key: few letters differ in the last part, and the section is the same.
func nearest(key string, known []string) string {
	best, bestCost := "", -1
	section, name := splitKey(key)
	for _, k := range known {
		s, n := splitKey(k)
		cost := 3 * distance(name, n)
		if s != section {
			cost += 2 + distance(section, s)
		}
		if bestCost < 0 || cost < bestCost {
			best, bestCost = k, cost
		}
	}
	return best
}

// splitKey parts a full key into its section and its own name.
func splitKey(key string) (section, name string) {
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		return key[:i], key[i+1:]
	}
	return "", key
}

// distance is the number of letters to add, remove or change to make a into b
// (Levenshtein); only the first 40 bytes count, which bounds the work.
func distance(a, b string) int {
	a, b = strings.ToLower(a[:min(len(a), 40)]), strings.ToLower(b[:min(len(b), 40)])
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

// formatSize writes a number of bytes as a user would.
func formatSize(n int64) string {
	for _, unit := range sizeUnits {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", n/unit.bytes, unit.name)
		}
	}
	return strconv.FormatInt(n, 10)
}
