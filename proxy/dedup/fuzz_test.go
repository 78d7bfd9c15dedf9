package dedup

import (
	"bytes"
	"encoding/json"
	"io"
	"math/big"
	"strings"
	"testing"
	"unicode/utf8"
)

// A wantID is what the oracle takes for an id: a string, or a number with all its digits.
type wantID struct {
	text   string
	number *big.Rat
}

func (w wantID) equal(v wantID) bool {
	if w.number == nil || v.number == nil {
		return w.number == v.number && w.text == v.text
	}
	return w.number.Cmp(v.number) == 0
}

// oracle finds the id with encoding/json, which takes the last of equal keys, too. unsure:
// the oracle can't tell (numbers too big to be written out).
func oracle(path string, msg []byte) (id wantID, found, unsure bool) {
	if !json.Valid(msg) || depth(msg) > maxDepth {
		return wantID{}, false, false
	}
	for _, key := range strings.Split(path, ".") {
		var object map[string]json.RawMessage
		if msg = bytes.TrimSpace(msg); msg[0] != '{' {
			return wantID{}, false, false
		}
		if err := json.Unmarshal(msg, &object); err != nil {
			return wantID{}, false, false
		}
		var ok bool
		if msg, ok = object[key]; !ok {
			return wantID{}, false, false
		}
	}
	msg = bytes.TrimSpace(msg)
	d := json.NewDecoder(bytes.NewReader(msg))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return wantID{}, false, false
	}
	switch v := v.(type) {
	case string:
		if v == "" || !utf8.Valid(msg) {
			return wantID{}, false, false
		}
		// encoding/json writes U+FFFD for half a surrogate pair: it must not appear more often
		// than the message itself says it.
		raw := strings.ToLower(strings.ReplaceAll(string(msg), `\\`, ""))
		said := strings.Count(raw, "\uFFFD") + strings.Count(raw, `\ufffd`)
		return wantID{text: v}, strings.Count(v, "\uFFFD") == said, false
	case json.Number:
		if len(v) > maxDigits {
			return wantID{}, false, true
		}
		if _, exponent, ok := strings.Cut(strings.ToLower(string(v)), "e"); ok && len(exponent) > 4 {
			return wantID{}, false, true
		}
		r, ok := new(big.Rat).SetString(string(v))
		return wantID{number: r}, ok, !ok
	}
	return wantID{}, false, false
}

// depth is how deeply valid JSON nests.
func depth(msg []byte) int {
	deepest, now := 0, 0
	d := json.NewDecoder(bytes.NewReader(msg))
	d.UseNumber() // no error for those beyond float64
	for {
		t, err := d.Token()
		if err == io.EOF {
			return deepest
		}
		if err != nil {
			return maxDepth + 1 // encoding/json's own limit
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			now++
			deepest = max(deepest, now)
		case json.Delim('}'), json.Delim(']'):
			now--
		}
	}
}

// checkPair compares Find with the oracle for two messages, and whether their ids are equal.
func checkPair(t *testing.T, path string, msgs [2][]byte) {
	t.Helper()
	p, err := ParsePath(path)
	if err != nil {
		return
	}
	var got [2]ID
	var want [2]wantID
	comparable := true
	for i, msg := range msgs {
		before := bytes.Clone(msg)
		id, ok := p.Find(msg)
		if !bytes.Equal(msg, before) {
			t.Fatalf("Find changed %q to %q", before, msg)
		}
		w, found, unsure := oracle(path, msg)
		if !unsure && ok != found {
			t.Fatalf("Find(%q) at %s: %v, encoding/json says %v", msg, path, ok, found)
		}
		if !ok || unsure {
			comparable = false
		}
		got[i], want[i] = id, w
	}
	if comparable && (got[0] == got[1]) != want[0].equal(want[1]) {
		t.Fatalf("at %s: ids of %q and %q are equal: %v, encoding/json says %v", path, msgs[0], msgs[1], got[0] == got[1], want[0].equal(want[1]))
	}
}

// FuzzFind compares Find with encoding/json on whole messages.
func FuzzFind(f *testing.F) {
	for _, line := range sameID {
		for _, msg := range line.msgs {
			f.Add(line.path, []byte(line.msgs[0]), []byte(msg))
		}
	}
	f.Add("id", manyFields(), chatMessage(128, "last"))
	f.Fuzz(func(t *testing.T, path string, a, b []byte) {
		checkPair(t, path, [2][]byte{a, b})
	})
}

// FuzzFindValue puts two values where the id stands, so that most inputs are valid.
func FuzzFindValue(f *testing.F) {
	for _, pair := range [][2]string{
		{"1", "10e-1"}, {"0", "-0.0"}, {"1.5", "15E-1"}, {"100", "1e2"}, {"0.001", "1e-3"}, {"12", "1.2"}, {`"1"`, "1"}, {`"1"`, `"\u0031"`},
		{`"\ud83d\ude00"`, `"😀"`}, {`"\ud83d"`, `"\ufffd"`}, {`"a\/b"`, `"a/b"`}, {`1,"id":2`, `2`}, {`{"id":1}`, `[1]`}, {"null", "true"}, {`""`, `" "`},
	} {
		f.Add([]byte(pair[0]), []byte(pair[1]))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		var msgs [2][]byte
		for i, v := range [][]byte{a, b} {
			msgs[i] = append(append([]byte(`{"x":"\\","id":`), v...), `,"y":{"id":[]}}`...)
		}
		checkPair(t, "id", msgs)
	})
}
