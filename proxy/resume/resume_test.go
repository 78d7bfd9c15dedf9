package resume

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestControlMessagesAsTheyGoOut(t *testing.T) {
	for _, c := range []struct{ name, got, want string }{
		{"welcome", string(AppendWelcome(nil, Welcome{Session: "s1", Token: "t1", Resumed: true, Received: 7, Protocol: "chat", GraceMS: 30000})),
			"\x1e" + `{"type":"welcome","session":"s1","token":"t1","resumed":true,"received":7,"protocol":"chat","grace_ms":30000}`},
		{"welcome of a new session", string(AppendWelcome(nil, Welcome{})),
			"\x1e" + `{"type":"welcome","session":"","token":"","resumed":false,"received":0,"protocol":"","grace_ms":0}`},
		{"ack", string(AppendAck(nil, 42)), "\x1e" + `{"type":"ack","received":42}`},
		{"pong", string(AppendPong(nil)), "\x1e" + `{"type":"pong"}`},
		{"gap", string(AppendGap(nil, 3, 9)), "\x1e" + `{"type":"gap","from":3,"to":9}`},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, c.got, c.want)
		}
		if !json.Valid([]byte(c.got[1:])) {
			t.Errorf("%s is not JSON: %s", c.name, c.got[1:])
		}
	}
	if got := string(AppendAck([]byte("before"), 1)); !strings.HasPrefix(got, "before\x1e") {
		t.Errorf("appended to %q, it became %q", "before", got)
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text     string
		kind     Kind
		received uint64
	}{
		{`{"type":"ack","received":0}`, Ack, 0},
		{`{"type":"ack","received":17}`, Ack, 17},
		{` { "received" : 17 , "type" : "ack" } `, Ack, 17},
		{`{"type":"ack","received":9007199254740991}`, Ack, MaxCount},
		{`{"type":"ack","received":3,"more":[1,2]}`, Ack, 3},
		{`{"type":"ping"}`, Ping, 0},
		{`{"type":"pong"}`, Pong, 0},
		{`{"type":"from a later version"}`, Unknown, 0},
		{`{"type":""}`, Unknown, 0},
	} {
		kind, n, err := Parse([]byte(c.text))
		if err != nil || kind != c.kind || n != c.received {
			t.Errorf("%s: got %d, %d, %v; want %d, %d", c.text, kind, n, err, c.kind, c.received)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                  ``,
		"no JSON":                  `hello`,
		"cut JSON":                 `{"type":"ack"`,
		"two values":               `{"type":"ping"}{"type":"ping"}`,
		"a list":                   `["ack"]`,
		"null":                     `null`,
		"no type":                  `{"received":1}`,
		"type null":                `{"type":null}`,
		"type a number":            `{"type":1}`,
		"ack without a count":      `{"type":"ack"}`,
		"ack of null":              `{"type":"ack","received":null}`,
		"ack of text":              `{"type":"ack","received":"1"}`,
		"ack below zero":           `{"type":"ack","received":-1}`,
		"ack of a fraction":        `{"type":"ack","received":1.5}`,
		"ack of a power":           `{"type":"ack","received":1e3}`,
		"ack beyond exact numbers": `{"type":"ack","received":9007199254740992}`,
		"ack beyond 64 bits":       `{"type":"ack","received":99999999999999999999}`,
		"ack of a list":            `{"type":"ack","received":[1]}`,
		"too long":                 `{"type":"ping","x":"` + strings.Repeat("x", MaxControl) + `"}`,
	} {
		if kind, n, err := Parse([]byte(text)); !errors.Is(err, ErrControl) {
			t.Errorf("%s (%.60s): got %d, %d, error %v; want ErrControl", name, text, kind, n, err)
		}
	}
}

func TestReadOffer(t *testing.T) {
	for _, c := range []struct {
		name   string
		offers []string
		want   Offer
	}{
		{"nothing offered", nil, Offer{}},
		{"an application's own", []string{"chat", "superchat"}, Offer{App: []string{"chat", "superchat"}}},
		{"a new session", []string{"tideover.v1"}, Offer{V1: true}},
		{"a new session, with the application's", []string{"tideover.v1", "chat"}, Offer{V1: true, App: []string{"chat"}}},
		{"a resume", []string{"tideover.v1", "tideover.resume.abc-_1.17", "chat"}, Offer{V1: true, Resume: true, Token: "abc-_1", Received: 17, App: []string{"chat"}}},
		{"a resume before the first message", []string{"tideover.v1", "tideover.resume.abc.0"}, Offer{V1: true, Resume: true, Token: "abc"}},
		{"in another order", []string{"chat", "tideover.resume.abc.1", "tideover.v1"}, Offer{V1: true, Resume: true, Token: "abc", Received: 1, App: []string{"chat"}}},
		{"a token without tideover.v1 is the application's", []string{"tideover.resume.abc.1"}, Offer{App: []string{"tideover.resume.abc.1"}}},
		{"another version is the application's", []string{"tideover.v2"}, Offer{App: []string{"tideover.v2"}}},
		// A resume that can't be read must never turn into a new session: it is one with no token.
		{"no count", []string{"tideover.v1", "tideover.resume.abc"}, Offer{V1: true, Resume: true}},
		{"empty count", []string{"tideover.v1", "tideover.resume.abc."}, Offer{V1: true, Resume: true}},
		{"count with a zero before it", []string{"tideover.v1", "tideover.resume.abc.01"}, Offer{V1: true, Resume: true}},
		{"count with a sign", []string{"tideover.v1", "tideover.resume.abc.+1"}, Offer{V1: true, Resume: true}},
		{"count beyond exact numbers", []string{"tideover.v1", "tideover.resume.abc.9007199254740992"}, Offer{V1: true, Resume: true}},
		{"a dot too many", []string{"tideover.v1", "tideover.resume.a.b.1"}, Offer{V1: true, Resume: true}},
		{"no token", []string{"tideover.v1", "tideover.resume..1"}, Offer{V1: true, Resume: true, Received: 1}},
		{"two tokens", []string{"tideover.v1", "tideover.resume.a.1", "tideover.resume.b.2"}, Offer{V1: true, Resume: true}},
	} {
		if got := ReadOffer(c.offers); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, want %+v", c.name, got, c.want)
		}
	}
}

// FuzzParse takes any text: what is accepted must mean the same to encoding/json with
// numbers kept as they are spelled.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"type":"ack","received":17}`, `{"type":"ack","received":1e3}`, `{"type":"ping"}`, `{}`, `[`, "\xff",
		`{"TYPE":"ack","received":1}`, `{"type":"ping","type":"ack","received":2}`, `{"type":"ack","received":00}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		kind, n, err := Parse(text)
		if err != nil {
			if !errors.Is(err, ErrControl) || kind != Unknown || n != 0 {
				t.Fatalf("refused with %d, %d, %v", kind, n, err)
			}
			return
		}
		if !json.Valid(text) {
			t.Fatalf("took what is not JSON: %q", text)
		}
		if n > MaxCount || kind != Ack && n != 0 {
			t.Fatalf("kind %d with count %d", kind, n)
		}
		if kind == Ack && !strings.Contains(string(text), strconv.FormatUint(n, 10)) {
			t.Fatalf("count %d does not stand in %q", n, text)
		}
	})
}

// FuzzReadOffer takes any list of subprotocols, separated by commas.
func FuzzReadOffer(f *testing.F) {
	f.Add("tideover.v1,tideover.resume.abc.17,chat")
	f.Add("chat")
	f.Add("tideover.resume.a.1,tideover.v1,tideover.resume.b.2")
	f.Fuzz(func(t *testing.T, list string) {
		offers := strings.Split(list, ",")
		given := slices.Clone(offers)
		o := ReadOffer(offers)
		if !slices.Equal(offers, given) {
			t.Fatal("the offers were changed")
		}
		if o.V1 != slices.Contains(offers, Protocol) {
			t.Fatalf("V1 is %v for %q", o.V1, offers)
		}
		if !o.Resume && (o.Token != "" || o.Received != 0) || o.Received > MaxCount {
			t.Fatalf("impossible offer %+v", o)
		}
		if o.Token != "" && !slices.Contains(offers, tokenPrefix+o.Token+"."+strconv.FormatUint(o.Received, 10)) {
			t.Fatalf("%+v was read from %q", o, offers)
		}
		own := 0
		for _, p := range offers {
			if o.V1 && (p == Protocol || strings.HasPrefix(p, tokenPrefix)) {
				continue
			}
			if own >= len(o.App) || o.App[own] != p {
				t.Fatalf("application's subprotocols %q from %q", o.App, offers)
			}
			own++
		}
		if own != len(o.App) {
			t.Fatalf("application's subprotocols %q from %q", o.App, offers)
		}
	})
}
