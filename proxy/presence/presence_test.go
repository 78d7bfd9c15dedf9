package presence

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/session"
)

func template(t *testing.T, s string) config.Template {
	t.Helper()
	parsed, err := config.ParseTemplate(s)
	if err != nil {
		t.Fatalf("ParseTemplate(%s): %v", s, err)
	}
	return parsed
}

// noon is 12:00 UTC plus 5.0069 ms, told in another zone.
var noon = time.Date(2026, 7, 1, 14, 0, 0, 5_006_900, time.FixedZone("", 2*3600))

func TestEachEventHasItsOwnTemplate(t *testing.T) {
	r := NewRenderer(config.Events{
		Joined:      template(t, `{"is":"joined"}`),
		Away:        template(t, `{"is":"away"}`),
		Reconnected: template(t, `{"is":"reconnected"}`),
		Left:        template(t, `{"is":"left"}`),
	})
	for _, event := range []session.Event{session.Joined, session.Away, session.Reconnected, session.Left} {
		want := `before {"is":"` + event.String() + `"}`
		if got := r.Append([]byte("before "), event, &Identity{}, "", "", noon); string(got) != want {
			t.Errorf("%v: %s, want %s", event, got, want)
		}
	}
	if got := r.Append(nil, session.Left+1, &Identity{}, "", "", noon); len(got) != 0 {
		t.Errorf("an unknown event: %s, want nothing", got)
	}
}

func TestNoTemplateNoMessage(t *testing.T) {
	r := NewRenderer(config.Events{Left: template(t, `{"user":"${query.user}"}`)})
	who := r.Identify(httptest.NewRequest("GET", "/?user=ada", nil))
	for _, event := range []session.Event{session.Joined, session.Away, session.Reconnected} {
		if got := r.Append([]byte("x"), event, &who, "id", "key", noon); string(got) != "x" {
			t.Errorf("%v: appended %q, want nothing", event, got[1:])
		}
	}
	if got := r.Append(nil, session.Left, &who, "id", "key", noon); string(got) != `{"user":"ada"}` {
		t.Errorf("left: %s", got)
	}
}

func TestPlaceholders(t *testing.T) {
	all := `{"q":"${query.user}","h":"${header.x-user}","c":"${cookie.name}","host":"${header.Host}","id":"${session.id}","key":"${session.key}","at":"${time}","again":"<${query.user}>"}`
	tests := []struct {
		name   string
		modify func(*http.Request)
		want   map[string]string
	}{
		{"all there", func(r *http.Request) {
			r.URL.RawQuery = "room=1&user=ada%20l&user=second"
			r.Header.Add("X-User", "one")
			r.Header.Add("x-user", "two")
			r.Header.Set("Cookie", "a=1; name=cookie; name=other")
			r.Host = "chat.example"
		}, map[string]string{"q": "ada l", "again": "<ada l>", "h": "one, two", "c": "cookie", "host": "chat.example"}},
		{"all absent", func(r *http.Request) { r.Host = "" }, map[string]string{"q": "", "again": "<>", "h": "", "c": "", "host": ""}},
		{"hostile", func(r *http.Request) {
			r.URL.RawQuery = `user=%22%2C%22admin%22%3Atrue%2C%22x%22%3A%22%5C&user=x`
			r.Header["X-User"] = []string{"a\x00\n\"}"}
			r.Host = "${session.key}"
		}, map[string]string{"q": `","admin":true,"x":"\`, "again": `<","admin":true,"x":"\>`, "h": "a\x00\n\"}", "c": "", "host": "${session.key}"}},
		{"not UTF-8", func(r *http.Request) {
			r.URL.RawQuery = "user=%ff%c3"
			r.Header["X-User"] = []string{"\xed\xa0\x80"}
			r.Host = "é"
		}, map[string]string{"q": "\uFFFD\uFFFD", "again": "<\uFFFD\uFFFD>", "h": "\uFFFD\uFFFD\uFFFD", "c": "", "host": "é"}},
	}
	r := NewRenderer(config.Events{Joined: template(t, all), Away: template(t, `"${cookie.name} ${query.room}"`)})
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			req := httptest.NewRequest("GET", "/ws", nil)
			test.modify(req)
			who := r.Identify(req)
			got := r.Append(nil, session.Joined, &who, "id-1", `key "1"`, noon)
			if !utf8.Valid(got) {
				t.Fatalf("not valid UTF-8: %q", got)
			}
			var fields map[string]string
			if err := json.Unmarshal(got, &fields); err != nil {
				t.Fatalf("not JSON: %v: %s", err, got)
			}
			test.want["id"], test.want["key"], test.want["at"] = "id-1", `key "1"`, "2026-07-01T12:00:00.005Z"
			for name, want := range test.want {
				if fields[name] != want {
					t.Errorf("%s = %q, want %q", name, fields[name], want)
				}
			}
			if len(fields) != len(test.want) {
				t.Errorf("%d fields, want %d: %s", len(fields), len(test.want), got)
			}
		})
	}
}

func TestIdentityKeepsOnlyWhatTemplatesName(t *testing.T) {
	req := httptest.NewRequest("GET", "/?user=ada&secret=x&room=general", nil)
	req.Header.Set("Authorization", "Bearer secret")
	if who := NewRenderer(config.Events{}).Identify(req); who != (Identity{}) {
		t.Errorf("without templates %q is kept", who.packed)
	}
	r := NewRenderer(config.Events{Away: template(t, `["${query.user}","${session.id}","${time}"]`), Left: template(t, `["${query.room}","${query.user}"]`)})
	who := r.Identify(req)
	if want := "\x00\x03ada\x00\x07general"; who.packed != want {
		t.Errorf("kept %q, want %q", who.packed, want)
	}
	if got := r.Append(nil, session.Left, &who, "", "", noon); string(got) != `["general","ada"]` {
		t.Errorf("left: %s", got)
	}
	// An Identity of another Renderer is a mistake of the caller, but must not crash.
	if got := r.Append(nil, session.Left, &Identity{}, "", "", noon); string(got) != `["",""]` {
		t.Errorf("left with the zero Identity: %s", got)
	}
}

func TestLongValuesAreCutVisibly(t *testing.T) {
	r := NewRenderer(config.Events{Left: template(t, `["${header.A}","${header.B}"]`)})
	for _, test := range []struct{ name, value, want string }{
		{"just fits", strings.Repeat("x", 4096), strings.Repeat("x", 4096)},
		{"one byte too long", strings.Repeat("x", 4097), strings.Repeat("x", 4093) + "…"},
		{"much too long", strings.Repeat("x", 1<<20), strings.Repeat("x", 4093) + "…"},
		{"cut inside of a character", "xx" + strings.Repeat("😀", 1100), "xx" + strings.Repeat("😀", 1022) + "…"},
		{"no character to be found", strings.Repeat("\x80", 5000), strings.Repeat("\uFFFD", 4093) + "…"},
	} {
		req := httptest.NewRequest("GET", "/", nil)
		req.Header["A"], req.Header["B"] = []string{test.value}, []string{"next"}
		who := r.Identify(req)
		if len(who.packed) > 4096+4+4 {
			t.Errorf("%s: %d bytes are kept", test.name, len(who.packed))
		}
		var got []string
		if err := json.Unmarshal(r.Append(nil, session.Left, &who, "", "", noon), &got); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if got[0] != test.want {
			t.Errorf("%s: %d bytes that end in %.20q, want %d bytes", test.name, len(got[0]), got[0][len(got[0])-12:], len(test.want))
		}
		if got[1] != "next" {
			t.Errorf("%s: the value behind it is %q", test.name, got[1])
		}
	}
}
