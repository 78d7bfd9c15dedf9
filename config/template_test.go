package config

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestTemplateAppend(t *testing.T) {
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"QUOTED": `a "b"`, "NUMBER": "7", "EVENT": `{"is":"whole"}`, "DOTTED": "${query.user}"}[name]
		return v, ok
	}
	values := map[string]string{
		"query user":       `Ann "the \ cat"` + "\n\x01</script>",
		"query a.b":        "dots",
		"header X-User-Id": "h",
		"cookie sid":       "c",
		"session id":       "s-1",
		"session key":      "k",
		"time ":            "2026-01-02T03:04:05Z",
	}
	for _, test := range []struct{ template, want string }{
		{`{"type":"left"}`, `{"type":"left"}`},
		{`{"u":"${query.user}!"}`, `{"u":"Ann \"the \\ cat\"\u000a\u0001</script>!"}`},
		{`["${query.a.b}","${header.x-user-id}","${cookie.sid}"]`, `["dots","h","c"]`},
		{`"${session.id}${session.key} ${time}"`, `"s-1k 2026-01-02T03:04:05Z"`},
		{`{"${query.a.b}":1}`, `{"dots":1}`},
		{`{"u":"${query.absent}"}`, `{"u":""}`},
		{`{"price":"$$5 $6 $${time} $"}`, `{"price":"$5 $6 ${time} $"}`},
		{`{"s":"${QUOTED}","n":${NUMBER}}`, `{"s":"a \"b\"","n":7}`},
		{`${EVENT}`, `{"is":"whole"}`},
		{`"${DOTTED}"`, `"${query.user}"`}, // what is filled in is not read again
		{`"\"${session.id}\\${session.id}\\\""`, `"\"s-1\\s-1\\\""`},
	} {
		tm, err := parseTemplate(test.template, env)
		if err != nil {
			t.Errorf("%s: %v", test.template, err)
			continue
		}
		got := tm.Append([]byte("before "), func(kind, name string) string { return values[kind+" "+name] })
		if string(got) != "before "+test.want {
			t.Errorf("%s became %s, want it to be appended as %s", test.template, got, test.want)
		}
	}
}

func TestTemplateRefused(t *testing.T) {
	for template, want := range map[string]string{
		`{"u":${query.user}}`:         "${query.user} stands outside of a JSON string",
		`{"a":"b"} ${time}`:           "${time} stands outside of a JSON string",
		`{"a\\":1,"b":${time}}`:       "${time} stands outside of a JSON string",
		`{"u":"${query.}"}`:           "${query.} is unknown; allowed are " + allowedPlaceholders,
		`{"u":"${query}"}`:            "the environment variable query is not set",
		`{"u":"${body.user}"}`:        "${body.user} is unknown",
		`{"u":"${session.token}"}`:    "${session.token} is unknown",
		`{"u":"${time.x}"}`:           "${time.x} is unknown",
		`{"u":"${time.}"}`:            "${time.} is unknown",
		`{"u":"${header.bad name}"}`:  "is unknown",
		`{"u":"${MISSING}"}`:          "the environment variable MISSING is not set",
		`{"u":"${query.user"`:         `has "${" without "}"`,
		`{"u":"${}"}`:                 "want ${NAME}",
		`{"u":"\${query.user}"}`:      "is not valid JSON", // a value after a lone backslash
		`{"u":"\u${query.user}0041"}`: "is not valid JSON",
		`{"u":"\u00${query.user}"}`:   "is not valid JSON",
		`{"u":}`:                      "is not valid JSON",
		`hello`:                       "is not valid JSON",
		` `:                           "is not valid JSON",
		`{"a":1}{"b":2}`:              "is not valid JSON",
		"{\"a\":\"line\nbreak\"}":     "is not valid JSON",
	} {
		_, err := parseTemplate(template, func(string) (string, bool) { return "", false })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gave the error %v, want one that says %q", template, err, want)
		}
	}
}

func TestTemplateEmpty(t *testing.T) {
	empty, err := ParseTemplate("")
	if err != nil || !empty.IsZero() {
		t.Errorf(`ParseTemplate("") gave %+v, %v, want the zero Template`, empty, err)
	}
	if tm, err := ParseTemplate("{}"); err != nil || tm.IsZero() || tm.String() != "{}" {
		t.Errorf(`ParseTemplate("{}") gave %+v, %v, want a Template that is not empty`, tm, err)
	}
}

func TestTemplateAppendAllocatesNothing(t *testing.T) {
	tm, err := ParseTemplate(`{"type":"left","u":"${query.user}","at":"${time}"}`)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 1024)
	value := func(kind, name string) string { return "Ann \"x\"" }
	if n := testing.AllocsPerRun(100, func() { buf = tm.Append(buf[:0], value) }); n != 0 {
		t.Errorf("Append into a large enough buffer allocates %v times, want 0", n)
	}
}

// FuzzTemplate: what is accepted is valid JSON for any value, and a value comes
// out of the JSON as it went in.
func FuzzTemplate(f *testing.F) {
	for _, template := range []string{`{"u":"${query.user}"}`, `["\\${time}"]`, `"\u00${session.id}"`, `{"a":${time}}`, `"$$${cookie.a}$"`} {
		f.Add(template, "value")
		f.Add(template, "\"\\\x00\xff\u2028")
	}
	f.Fuzz(func(t *testing.T, template, value string) {
		tm, err := parseTemplate(template, func(name string) (string, bool) { return name + value, true })
		if err != nil || tm.IsZero() {
			return
		}
		got := tm.Append(nil, func(string, string) string { return value })
		if !json.Valid(got) || utf8.ValidString(template) && !utf8.Valid(got) {
			t.Fatalf("%q with the value %q became %q, which is not valid JSON", template, value, got)
		}
		var back string
		if err := json.Unmarshal(append(appendEscaped([]byte{'"'}, value), '"'), &back); err != nil || back != strings.ToValidUTF8(string([]rune(value)), "\uFFFD") {
			t.Fatalf("the value %q came back as %q (%v)", value, back, err)
		}
	})
}
