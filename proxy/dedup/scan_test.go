package dedup

import (
	"fmt"
	"strings"
	"testing"
)

func mustPath(t testing.TB, s string) Path {
	t.Helper()
	p, err := ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParsePath(t *testing.T) {
	for _, s := range []string{"id", "a.b.id", "händel", "a b", `a"b`, strings.Repeat("a.", 31) + "a"} {
		if got := mustPath(t, s).String(); got != s {
			t.Errorf("ParsePath(%q).String() = %q", s, got)
		}
	}
	for s, why := range map[string]string{
		"":                             "empty",
		".":                            "empty",
		"a.":                           "empty",
		".a":                           "empty",
		"a..b":                         "empty",
		"a\xff":                        "UTF-8",
		"a\uFFFD":                      "U+FFFD",
		strings.Repeat("a.", 32) + "a": "at most 32",
	} {
		if _, err := ParsePath(s); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("ParsePath(%q): error %v, want one about %q", s, err, why)
		}
	}
	if _, ok := (Path{}).Find([]byte(`{"":1}`)); ok {
		t.Error("the zero Path found an id")
	}
}

// Each line is a set of messages with one and the same id; ids of different lines differ.
var sameID = []struct {
	name, path string
	msgs       []string
}{
	{"string", "id", []string{
		`{"id":"abc"}`, ` { "id" : "abc" } `, "\t{\n\"id\"\r:\n\"abc\"}\n",
		`{"id":"\u0061bc"}`, `{"id":"a\u0062\u0063"}`, `{"\u0069d":"abc"}`, `{"\u0069\u0064":"\u0061\u0062c"}`,
		`{"x":1,"id":"abc","y":[{"id":"no"},["id"]],"z":{"id":"no"}}`,
		`{"id":"no","id":"abc"}`, `{"id":{"id":"no"},"id":"abc"}`, `{"id":null,"\u0069d":"abc"}`,
		`{"a":"{\"id\":\"no\"}","id":"abc","b":"\\"}`, `{"ID":"no","Id":"no","id ":"no","id":"abc"}`,
	}},
	{"string with every escape", "id", []string{
		`{"id":"\"\\\/\b\f\n\r\tz"}`, `{"id":"\u0022\u005c\u002F\u0008\u000C\u000a\u000d\u0009\u007a"}`,
	}},
	{"slash", "id", []string{`{"id":"/"}`, `{"id":"\/"}`, `{"id":"\u002f"}`}},
	{"NUL", "id", []string{`{"id":"\u0000"}`}},
	{"beyond ASCII", "id", []string{`{"id":"é"}`, `{"id":"\u00e9"}`, `{"id":"\u00E9"}`}},
	{"another normal form is another value", "id", []string{`{"id":"é"}`, `{"id":"e\u0301"}`}},
	{"surrogate pair", "id", []string{`{"id":"😀"}`, `{"id":"\ud83d\ude00"}`, `{"id":"\uD83D\uDE00"}`}},
	{"text of an escape", "id", []string{`{"id":"\\ud83d"}`, `{"id":"\u005cud83d"}`}},
	{"replacement character itself", "id", []string{"{\"id\":\"\uFFFD\"}", `{"id":"\ufffd"}`}},
	{"string 1", "id", []string{`{"id":"1"}`, `{"id":"\u0031"}`}},
	{"string 1.0", "id", []string{`{"id":"1.0"}`}},
	{"string 1e0, as number 1 is hashed", "id", []string{`{"id":"1e0"}`}},
	{"string null", "id", []string{`{"id":"null"}`}},
	{"long string", "id", []string{`{"id":"` + strings.Repeat("x", 1000) + `"}`, `{"id":"` + strings.Repeat("x", 500) + `\u0078` + strings.Repeat("x", 499) + `"}`}},
	{"longer string", "id", []string{`{"id":"` + strings.Repeat("x", 1001) + `"}`}},

	{"1", "id", []string{
		`{"id":1}`, `{"id":1.0}`, `{"id":1e0}`, `{"id":1E0}`, `{"id":1e+0}`, `{"id":1e-0}`, `{"id":1e000}`, `{"id":10e-1}`,
		`{"id":0.1e1}`, `{"id":0.001E+3}`, `{"id":1000e-3}`, `{"id":1.000}`, `{"id":100.00e-2}`, `{"id":0.00000100e6}`,
	}},
	{"-1", "id", []string{`{"id":-1}`, `{"id":-1.0}`, `{"id":-10e-1}`}},
	{"0", "id", []string{`{"id":0}`, `{"id":-0}`, `{"id":0.0}`, `{"id":0e5}`, `{"id":-0.00e-99}`}},
	{"10", "id", []string{`{"id":10}`, `{"id":1e1}`, `{"id":10.0}`, `{"id":1e01}`}},
	{"0.1", "id", []string{`{"id":0.1}`, `{"id":1e-1}`, `{"id":0.10}`}},
	{"1.01", "id", []string{`{"id":1.01}`, `{"id":101e-2}`, `{"id":10.10e-1}`}},
	{"101", "id", []string{`{"id":101}`, `{"id":1.01e2}`, `{"id":101.00}`}},
	{"11", "id", []string{`{"id":11}`, `{"id":1.1e1}`}},
	{"2^53", "id", []string{`{"id":9007199254740992}`, `{"id":9007199254740.992e3}`}},
	{"2^53+1, the same in a float64", "id", []string{`{"id":9007199254740993}`, `{"id":9007199254740993.0}`}},
	{"beyond float64", "id", []string{`{"id":1e400}`, `{"id":10e399}`}},
	{"further beyond", "id", []string{`{"id":1e401}`}},
	{"largest exponent", "id", []string{`{"id":1e1000000000}`, `{"id":10e999999999}`}},
	{"100 digits", "id", []string{`{"id":` + strings.Repeat("7", 100) + `}`, `{"id":7.` + strings.Repeat("7", 98) + `7000e99}`, `{"id":` + strings.Repeat("7", 100) + strings.Repeat("0", 900) + `e-900}`}},
	{"100 digits, the last one another", "id", []string{`{"id":` + strings.Repeat("7", 99) + `8}`}},

	{"nested", "a.b.id", []string{
		`{"a":{"b":{"id":"deep"}}}`, `{"a":{"id":"no","b":{"c":{"id":"no"},"id":"deep"}},"id":"no","b":{"id":"no"}}`,
		`{"a":1,"a":{"b":[{"id":"no"}],"b":{"id":"deep"}}}`, `{"\u0061":{"b":{"id":"deep"},"c":{"id":"no"}},"z":{"b":{"id":"no"}}}`,
		`{"a":{"b":{"id":"no"},"b":{"id":"deep"}}}`, `{"a":{},"a":{"b":{},"b":{"id":"deep"}}}`,
		`{"x":[{"a":{"b":{"id":"no"}}}],"a":{"b":{"id":"deep","x":[[{"id":"no"}]]}}}`,
	}},
	{"key with odd characters", `k"\/é`, []string{`{"k\"\\/é":"odd"}`, `{"k\u0022\u005C\/\u00e9":"odd"}`}},
	{"deepest allowed", "id", []string{`{"id":"d","x":` + strings.Repeat("[", 1023) + strings.Repeat("]", 1023) + `}`}},
}

func TestFindComparesByValue(t *testing.T) {
	seen := map[ID]string{}
	for _, line := range sameID {
		p := mustPath(t, line.path)
		var first ID
		for i, msg := range line.msgs {
			id, ok := p.Find([]byte(msg))
			if !ok {
				t.Errorf("%s: no id in %s", line.name, msg)
				continue
			}
			if line.name == "another normal form is another value" {
				if i == 1 && id == first {
					t.Errorf("%s: merged", line.name)
				}
				first = id
				continue
			}
			if i == 0 {
				first = id
				if other, ok := seen[id]; ok {
					t.Errorf("%q and %q have the same id", line.name, other)
				}
				seen[id] = line.name
			} else if id != first {
				t.Errorf("%s: the id of %s is another than that of %s", line.name, msg, line.msgs[0])
			}
		}
	}
}

func TestFindFindsNothing(t *testing.T) {
	type row struct{ name, path, msg string }
	rows := []row{
		{"empty message", "id", ``},
		{"only space", "id", "  \n"},
		{"no object: array", "id", `[{"id":1}]`},
		{"no object: string", "id", `"id"`},
		{"no object: number", "id", `12`},
		{"empty object", "id", `{}`},
		{"key absent", "id", `{"a":"id","b":["id"]}`},
		{"key in another object", "id", `{"a":{"id":1}}`},
		{"key in another case", "id", `{"ID":1}`},
		{"longer key", "id", `{"id2":1,"xid":2}`},
		{"escaped longer key", "id", `{"\u0069d2":1,"\u0069":2}`},
		{"half of a pair in the key", "id", `{"id\ud800":1}`},
		{"damaged key", "id", "{\"id\xff\":1}"},
		{"null", "id", `{"id":null}`},
		{"true", "id", `{"id":true}`},
		{"false", "id", `{"id":false}`},
		{"object", "id", `{"id":{"id":1}}`},
		{"array", "id", `{"id":["id",1]}`},
		{"empty object as id", "id", `{"id":{}}`},
		{"empty string", "id", `{"id":""}`},
		{"overridden by null", "id", `{"id":1,"id":null}`},
		{"overridden by an object", "id", `{"id":1,"id":{"id":1}}`},
		{"overridden above", "a.id", `{"a":{"id":1},"a":{"x":1}}`},
		{"overridden above by null", "a.id", `{"a":{"id":1},"a":null}`},
		{"overridden above by an array", "a.id", `{"a":{"id":1},"a":[{"id":1}]}`},
		{"overridden above by an escaped key", "a.id", `{"a":{"id":1},"\u0061":{}}`},
		{"path through an array", "a.id", `{"a":[{"id":1}]}`},
		{"path through a string", "a.id", `{"a":"id"}`},
		{"path too short", "a.id", `{"id":1}`},
		{"path too long", "a.b.id", `{"a":{"id":1}}`},
		{"too deep", "id", `{"id":"d","x":` + strings.Repeat("[", 1024) + strings.Repeat("]", 1024) + `}`},
		{"far too deep", "id", `{"id":` + strings.Repeat("[", 1<<20)},
		{"far too deep in objects", "id", strings.Repeat(`{"id":`, 1<<18)},
		{"101 digits", "id", `{"id":` + strings.Repeat("7", 101) + `}`},
		{"far too many digits", "id", `{"id":-` + strings.Repeat("7", 1<<20) + `e7}`},
		{"exponent absurd", "id", `{"id":1e1000000001}`},
		{"exponent absurd below", "id", `{"id":1e-1000000001}`},
		{"exponent beyond int64", "id", `{"id":1e99999999999999999999999}`},
		{"zero with absurd exponent", "id", `{"id":0e99999999999999999999999}`},
		{"half of a pair", "id", `{"id":"\ud83d"}`},
		{"other half", "id", `{"id":"x\ude00"}`},
		{"halves in the wrong order", "id", `{"id":"\ude00\ud83d"}`},
		{"half before text", "id", `{"id":"\ud83dxxxxxxxx"}`},
		{"half before an escape", "id", `{"id":"\ud83d\n\n\n\n"}`},
		{"half twice", "id", `{"id":"\ud83d\ud83d"}`},
		{"invalid UTF-8", "id", "{\"id\":\"a\xff\"}"},
		{"overlong UTF-8", "id", "{\"id\":\"\xc0\xaf\"}"},
		{"surrogate in UTF-8", "id", "{\"id\":\"\xed\xa0\x80\"}"},
		{"cut UTF-8 with an escape", "id", "{\"id\":\"\\n\xe2\x82\"}"},
	}
	// Not JSON: an id stands there, but what a backend makes of it nobody knows.
	for _, msg := range []string{
		"\uFEFF" + `{"id":1}`, `{"id":1}{"id":1}`, "{\"id\":1}\n{\"id\":2}", `{"id":1}x`, `{"id":1},`, `{"id":1}}`, `{"id":1]`, `{"id":1,"a":[}`, `{"id":1,"a":[1}]`,
		`{"id":1`, `{"id":1,`, `{"id":1,}`, `{"id":1,"a"`, `{"id":1,"a":`, `{"id":1,"a":}`, `{"id":1,"a":[1,]}`, `{"id":1,"a":[,1]}`, `{"id":1 "a":2}`, `{"id":1;"a":2}`,
		`{"id"}`, `{"id",1}`, `{"id":}`, `{"id" 1}`, `{id:1,"id":1}`, `{'id':1,"id":1}`, `{,"id":1}`, `{"id":"a}`, `{"id":"a\"}`, `{"id":"a\`, `{"id":"a\u`, `{"id":"\u12`,
		`{"id":"\x41"}`, `{"id":"\'"}`, `{"id":"\u00g0"}`, `{"id":"\U0041"}`, `{"id":"\u+041"}`, `{"id":1,"a":"\u00 0"}`, "{\"id\":\"a\nb\"}", "{\"id\":1,\"a\":\"aaaaaaaa\x00\"}", "{\"id\":1,\"a\":\"\x1f\"}",
		`{"id":01}`, `{"id":00}`, `{"id":-}`, `{"id":+1}`, `{"id":.5}`, `{"id":5.}`, `{"id":1e}`, `{"id":1e+}`, `{"id":1.e1}`, `{"id":0x1}`, `{"id":1_0}`, `{"id":NaN}`, `{"id":-Infinity}`, `{"id":1,"a":-01}`, `{"id":1n}`,
		`{"id":1,"a":tru}`, `{"id":1,"a":truE}`, `{"id":1,"a":nul`, `{"id":1,"a":undefined}`, `{"id":1,"a":falsee}`, `{"id":1/**/}`, "{\"id\":\u00a01}", "{\"id\":1\v}", "{\"id\":1,\"a\":2\x00}", `{"id":1}` + "\x00",
	} {
		rows = append(rows, row{"not JSON", "id", msg})
	}
	for _, r := range rows {
		if id, ok := mustPath(t, r.path).Find([]byte(r.msg)); ok {
			t.Errorf("%s: found an id in %.60q at %s", r.name, r.msg, r.path)
		} else if id != (ID{}) {
			t.Errorf("%s: no id, but not the zero ID either", r.name)
		}
	}
}

// Cut short anywhere, a message is no JSON any more, and nothing reads beyond its end.
func TestFindOfCutMessages(t *testing.T) {
	p := mustPath(t, "a.id")
	whole := []byte(`{"n":[-0.5e+10,true,false,null,{"":[]}],"a":{"s":"\ud83d\ude00\"é","id":"x\u0041"},"z":{}}`)
	if _, ok := p.Find(whole); !ok {
		t.Fatalf("no id in %s", whole)
	}
	for n := range whole {
		if _, ok := p.Find(whole[:n:n]); ok {
			t.Errorf("found an id in %s", whole[:n])
		}
	}
}

func TestSpecialAtEveryOffset(t *testing.T) {
	for _, c := range []byte{'"', '\\', 0, 1, 0x1f, '\n'} {
		for length := range 20 {
			for at := range length {
				// Bytes next to the special ones, and with the top bit set, are plain.
				b := []byte(strings.Repeat(" !#[]\x7f\x80\xa2\xdc\xff", 2))[:length]
				b[at] = c
				for from := range length {
					want := length
					if from <= at {
						want = at
					}
					if got := special(b, from); got != want {
						t.Fatalf("special(%q, %d) = %d, want %d", b, from, got, want)
					}
				}
			}
		}
	}
}

func TestFindAllocatesNothing(t *testing.T) {
	p := mustPath(t, "a.id")
	for _, msg := range []string{
		`{"type":"message","text":"no id here"}`, `{"a":{"id":"plain"}}`, `{"\u0061":{"id":"\ud83d\ude00 and \n` + strings.Repeat("long", 100) + `"}}`,
		`{"a":{"id":12345}}`, `{"a":{"id":-123.4500e-17}}`, `{"a":{"id":` + strings.Repeat("12345", 20) + `00e77}}`, `{"a":{"id":` + strings.Repeat("12345", 100) + `.5}}`, `{"a":{"id":"\ud83d"}}`, `{"a":{"id":1}`, `{"a":{"id":0}}`,
	} {
		b := []byte(msg)
		if n := testing.AllocsPerRun(100, func() { p.Find(b) }); n != 0 {
			t.Errorf("%v allocations for %s", n, msg)
		}
	}
}

// chatMessage is a JSON message of about size bytes, with its id first, last or absent.
func chatMessage(size int, idAt string) []byte {
	id := `"id":"0b6c2c3e-55d1-4d2b-9f37-0f3c1f9a7f10"`
	body := `"type":"message","room":"general","user":"ada","text":"`
	pad := max(0, size-len(id)-len(body)-4)
	filler := strings.Repeat("how are you? ", pad/13+1)[:pad]
	switch idAt {
	case "first":
		return fmt.Appendf(nil, `{%s,%s%s"}`, id, body, filler)
	case "last":
		return fmt.Appendf(nil, `{%s%s",%s}`, body, filler, id)
	}
	return fmt.Appendf(nil, `{%s%s","xx":%s}`, body, filler, id[5:])
}

// manyFields is a message of about 4 KiB with short values only.
func manyFields() []byte {
	b := []byte(`{"points":[`)
	for i := range 90 {
		b = fmt.Appendf(b, `{"x":%d,"y":-%d.5,"label":"p%d","on":true},`, i, i, i)
	}
	return append(b, `null],"id":12345}`...)
}

func BenchmarkFind(b *testing.B) {
	p := mustPath(b, "id")
	run := func(name string, msg []byte, want bool) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(msg)))
			b.ReportAllocs()
			for b.Loop() {
				if _, ok := p.Find(msg); ok != want {
					b.Fatalf("Find = %v in %s", ok, msg)
				}
			}
		})
	}
	for _, size := range []int{128, 4096} {
		for _, at := range []string{"first", "last", "absent"} {
			run(fmt.Sprintf("%dB/%s", size, at), chatMessage(size, at), at != "absent")
		}
	}
	run("4096B/many", manyFields(), true)
	run("number", []byte(`{"type":"message","id":1234567,"text":"how are you?"}`), true)
	run("escaped", []byte(`{"type":"message","id":"a\/b\/c\/1234","text":"how are you?"}`), true)
}
