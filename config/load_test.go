package config

import (
	"errors"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var rewrite = flag.Bool("rewrite", false, "write the messages that come now into testdata/config/*.want")

const (
	testdata = "../testdata/config"
	secret   = "s3cr3t value"
)

// TestMistakes loads every testdata/config/*.yaml and compares the messages, line
// by line, with the .want file beside it.
func TestMistakes(t *testing.T) {
	t.Setenv("TIDEOVER_TEST_SET", secret)
	files, err := filepath.Glob(filepath.Join(testdata, "*.yaml"))
	if err != nil || len(files) < 15 {
		t.Fatalf("found %d files in %s (%v), want all of them", len(files), testdata, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c, err := Parse(filepath.Base(file), data)
			if err == nil || c != nil {
				t.Fatalf("Parse gave %v, %v, want no Config and an error", c, err)
			}
			got := err.Error() + "\n"
			wantFile := strings.TrimSuffix(file, ".yaml") + ".want"
			if *rewrite {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("the messages differ\n--- got\n%s--- want\n%s", got, want)
			}
			if strings.Contains(got, secret) {
				t.Errorf("a message shows a value from the environment")
			}
		})
	}
}

// TestSyntaxErrorLine: the YAML library counts lines in two ways, and leaves some out.
func TestSyntaxErrorLine(t *testing.T) {
	for text, want := range map[string]string{
		"\n&":                                   "p.yaml:2: is not YAML: did not find expected alphabetic or numeric character",
		"listen: [x]]\n":                        "p.yaml:1: is not YAML: did not find expected key",
		"- a\nb: 2\n":                           "p.yaml:2: is not YAML: did not find expected '-' indicator",
		"\nlisten: [1, 2\nlog: 3\n":             "p.yaml:2: is not YAML: did not find expected ',' or ']'",
		"listen: 1\nlog: level: debug\n":        "p.yaml:2: is not YAML: mapping values are not allowed in this context",
		"log:\n  level: 'x\n":                   "p.yaml:2: is not YAML: found unexpected end of stream",
		"log:\r  level: 'x\r":                   "p.yaml:1: is not YAML: found unexpected end of stream",
		"log:\n  level: *lev\n":                 "p.yaml:2: is not YAML: unknown anchor 'lev' referenced",
		"listen: ':80'\n---\nadmin: [\n":        "p.yaml:4: is not YAML: did not find expected node content", // the end of the file
		"listen: ':80'\n--- # the same again\n": `p.yaml:2: holds a second document after "---"; put everything into one`,
	} {
		_, err := Parse("p.yaml", []byte(text))
		wantErrors(t, err, want)
	}
}

// TestErrorType checks that callers get at each mistake's file, line and key.
func TestErrorType(t *testing.T) {
	_, err := Parse("p.yaml", []byte("listen: ':8080'\nsession:\n  grace: 30\nlog: {level: loud}\n"))
	var all Errors
	if !errors.As(err, &all) || len(all) != 2 {
		t.Fatalf("Parse gave %T %v, want Errors with 2 mistakes", err, err)
	}
	if e := all[0]; e.File != "p.yaml" || e.Line != 3 || e.Key != "session.grace" {
		t.Errorf("the first mistake is %+v, want p.yaml line 3 session.grace", *e)
	}
	if e := all[1]; e.Line != 4 || e.Key != "log.level" {
		t.Errorf("the second mistake is %+v, want line 4 log.level", *e)
	}
	var first *Error
	if !errors.As(err, &first) || first != all[0] {
		t.Errorf("errors.As to *Error gave %v, want the first mistake", first)
	}
}

func TestEmptyFileIsDefault(t *testing.T) {
	for _, text := range []string{"", "\n", "# only a comment\n", "---\n", "events:\nlog:\n", "{}"} {
		c, err := Parse("empty.yaml", []byte(text))
		if err != nil {
			t.Errorf("Parse(%q): %v", text, err)
			continue
		}
		if !reflect.DeepEqual(c, Default()) {
			t.Errorf("Parse(%q) differs from Default: %+v", text, c)
		}
	}
	if got := Default().Upstream.URL.String(); got != "ws://127.0.0.1:9000" {
		t.Errorf("the default upstream is %s, want ws://127.0.0.1:9000", got)
	}
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default().Validate(); err != nil {
		t.Error(err)
	}
}

// TestEveryKey sets each key that works to something else than its default.
func TestEveryKey(t *testing.T) {
	t.Setenv("TIDEOVER_TEST_PORT", "7000")
	t.Setenv("TIDEOVER_TEST_N", "3")
	cert, key := writePair(t)
	t.Setenv("TIDEOVER_TEST_CERT", cert)
	t.Setenv("TIDEOVER_TEST_KEY", key)
	got, err := Parse("all.yaml", []byte(`
listen: "[::1]:${TIDEOVER_TEST_PORT}"
tls: {cert_file: "${TIDEOVER_TEST_CERT}", key_file: "${TIDEOVER_TEST_KEY}"}
admin: {listen: "unix:/run/admin.sock"}
log: {level: debug, format: console}
upstream:
  url: https://chat.example:8443/base/?v=1
  tls:
    ca_file: ${TIDEOVER_TEST_CERT}
    server_name: inner.example
    cert_file: ${TIDEOVER_TEST_CERT}
    key_file: ${TIDEOVER_TEST_KEY}
    insecure_skip_verify: true
  connect_timeout: 1s
  heartbeat: {interval: 5s, max_missed: 4}
session:
  key: [path, header:x-user, "cookie:sid"]
  bind: []
  grace: 1m30s
  on_conflict: reject
  end_on_close: [1005, 4000]
replay:
  max_messages: ${TIDEOVER_TEST_N}
  max_bytes: 64KiB
  overflow: drop_oldest
  receipt_interval: 1s
dedup:
  enabled: false
  id_path: meta.id
  ttl: 1h
  max_ids: 5
  scope: global
heartbeat:
  interval: 10s
  max_missed: 1
  message: 'costs $$5 or $6 or ${TIDEOVER_TEST_N}$'
events:
  joined: '{"t":1}'
  away: '{"t":2}'
  reconnected: '{"t":3}'
  left: '{"t":4}'
  away_after: 2s
http: {passthrough: false, inject_client: true}
limits:
  max_sessions: 10
  max_message_bytes: 1024
  max_buffer_bytes: 1GiB
  handshake_timeout: 3s
  allowed_origins: ["HTTPS://App.Example:443", "http://localhost:3000", "https://*.example"]
`))
	if err != nil {
		t.Fatal(err)
	}
	template := func(s string) Template {
		tm, err := ParseTemplate(s)
		if err != nil {
			t.Fatal(err)
		}
		return tm
	}
	d := Default()
	want := &Config{
		Listen: Address{"tcp", "[::1]:7000"},
		TLS:    TLS{cert, key},
		Admin:  Admin{Address{"unix", "/run/admin.sock"}},
		Log:    Log{LevelDebug, FormatConsole},
		Upstream: Upstream{
			URL:            URL{Scheme: "https", Host: "chat.example:8443", Path: "/base", RawQuery: "v=1"},
			TLS:            UpstreamTLS{cert, "inner.example", cert, key, true},
			ConnectTimeout: time.Second,
			Heartbeat:      Heartbeat{5 * time.Second, 4},
			Reconnect:      d.Upstream.Reconnect,
		},
		Session: Session{
			Key:        []Source{{KindPath, ""}, {KindHeader, "X-User"}, {KindCookie, "sid"}},
			Grace:      90 * time.Second,
			OnConflict: ConflictReject,
			EndOnClose: []uint16{1005, 4000},
		},
		Replay:    Replay{MaxMessages: 3, MaxBytes: 64 << 10, Overflow: OverflowDropOldest, ReceiptInterval: time.Second},
		Dedup:     Dedup{false, "meta.id", time.Hour, 5, ScopeGlobal},
		Heartbeat: ClientHeartbeat{10 * time.Second, 1, "costs $5 or $6 or 3$"},
		Events: Events{
			Joined: template(`{"t":1}`), Away: template(`{"t":2}`), Reconnected: template(`{"t":3}`), Left: template(`{"t":4}`),
			AwayAfter: 2 * time.Second,
		},
		HTTP: HTTP{InjectClient: true},
		Limits: Limits{
			MaxSessions: 10, MaxMessageBytes: 1024, MaxBufferBytes: 1 << 30, HandshakeTimeout: 3 * time.Second,
			AllowedOrigins: []Origin{"https://app.example", "http://localhost:3000", "https://*.example"},
		},
		Shutdown: d.Shutdown,
	}
	gotFields, wantFields, defaults := fields(got), fields(want), fields(d)
	for i, f := range gotFields {
		switch {
		case f.section():
		case !reflect.DeepEqual(f.value.Interface(), wantFields[i].value.Interface()):
			t.Errorf("%s is %+v, want %+v", f.key, f.value, wantFields[i].value)
		case !f.refused() && reflect.DeepEqual(f.value.Interface(), defaults[i].value.Interface()):
			t.Errorf("%s still has its default: this test does not set it", f.key)
		}
	}
}

func TestSchema(t *testing.T) {
	byKey := map[string]bool{}
	for _, f := range fields(Default()) {
		if byKey[f.key] || strings.HasSuffix(f.key, ".") {
			t.Errorf("the key %q has no name of its own", f.key)
		}
		byKey[f.key] = true
		switch f.value.Interface().(type) {
		case int, time.Duration:
			if f.tag.Get("min") == "" {
				t.Errorf("%s has no least value, so that it may be negative", f.key)
			}
		case int64:
			if f.tag.Get("unit") != "bytes" || f.tag.Get("min") == "" {
				t.Errorf("%s: an int64 is a size; want unit and min", f.key)
			}
		}
	}
	for _, key := range notYet {
		if !byKey[key] {
			t.Errorf("notYet has %s, which is no key", key)
		}
	}
}

// TestNotYetIsOneTable proves that taking rows out of notYet is all that it needs
// to make their keys work.
func TestNotYetIsOneTable(t *testing.T) {
	defer func(rows []string) { notYet = rows }(notYet)
	notYet = nil
	c, err := Parse("p.yaml", []byte(`
upstream: {reconnect: {enabled: true, initial_delay: 1s, max_delay: 2s, max_elapsed: 3s, replay_first: 4}}
replay: {last_id_param: last, retain: 1m}
events: {webhook: "http://127.0.0.1/hook"}
http: {inject_client: true}
limits: {max_sessions_per_ip: 3, trusted_proxies: [10.0.0.0/8, "2001:db8::/32"]}
shutdown: {drain: 1s}
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Reconnect{true, time.Second, 2 * time.Second, 3 * time.Second, 4}); c.Upstream.Reconnect != want {
		t.Errorf("upstream.reconnect is %+v, want %+v", c.Upstream.Reconnect, want)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")}; !reflect.DeepEqual(c.Limits.TrustedProxies, want) {
		t.Errorf("limits.trusted_proxies is %v, want %v", c.Limits.TrustedProxies, want)
	}
	_, err = Parse("p.yaml", []byte(`
upstream: {reconnect: {initial_delay: 9s}}
limits: {trusted_proxies: [10.0.0.1/8, 10.0.0.1]}
`))
	wantErrors(t, err,
		"p.yaml:2: upstream.reconnect.initial_delay: upstream.reconnect.initial_delay (9s) must not be longer than upstream.reconnect.max_delay (5s)",
		`p.yaml:3: limits.trusted_proxies: "10.0.0.1/8": has bits behind its prefix; did you mean 10.0.0.0/8?`,
		`p.yaml:3: limits.trusted_proxies: "10.0.0.1": want a CIDR such as 10.0.0.0/8 or 2001:db8::/32`)
}

func wantErrors(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil || err.Error() != strings.Join(want, "\n") {
		t.Errorf("the errors differ\n--- got\n%v\n--- want\n%s", err, strings.Join(want, "\n"))
	}
}

// TestValidate checks Configs built in code, where no parser has refused anything.
func TestValidate(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"zero":          {func(c *Config) { c.Session.Grace = 0 }, "session.grace: 0s is too short: want at least 1ms"},
		"enum":          {func(c *Config) { c.Replay.Overflow = "stop" }, `replay.overflow: "stop": want one of end, drop_oldest, pause`},
		"no listener":   {func(c *Config) { c.Listen = Address{} }, "listen: must not be empty: " + errAddress.Error()},
		"odd network":   {func(c *Config) { c.Listen.Network = "udp" }, "listen: " + errAddress.Error()},
		"no upstream":   {func(c *Config) { c.Upstream.URL = URL{} }, "upstream.url: " + errURL.Error()},
		"small header":  {func(c *Config) { c.Session.Bind = []Source{{KindHeader, "x-user"}} }, "session.bind: " + errSource.Error()},
		"path and name": {func(c *Config) { c.Session.Key = []Source{{KindPath, "x"}} }, "session.key: " + errSource.Error()},
		"close code":    {func(c *Config) { c.Session.EndOnClose = []uint16{1006} }, "session.end_on_close: " + errCloseCode.Error()},
		"origin":        {func(c *Config) { c.Limits.AllowedOrigins = []Origin{"https://A.example"} }, "limits.allowed_origins: " + errOrigin.Error()},
		"huge":          {func(c *Config) { c.Limits.MaxBufferBytes = 1 << 41 }, "limits.max_buffer_bytes: 2199023255552 is too much: want at most 1TiB"},
		"message":       {func(c *Config) { c.Heartbeat.Message = "\xff" }, "heartbeat.message: want UTF-8 text, which it is sent as"},
		"deep id":       {func(c *Config) { c.Dedup.IDPath = strings.Repeat("a.", 32) + "id" }, "dedup.id_path: want names of JSON object members joined by single dots, such as id or meta.id, at most 32 of them"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Default()
			test.change(c)
			wantErrors(t, c.Validate(), test.want)
		})
	}
}

func TestLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.yaml")
	if _, err := Load(file); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("Load of a missing file gave %v, want an error with its name", err)
	}
	if err := os.WriteFile(file, []byte("session: {grace: 7s}"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file)
	if err != nil || c.Session.Grace != 7*time.Second {
		t.Errorf("Load gave %+v, %v, want session.grace 7s", c, err)
	}
	if err := os.WriteFile(file, []byte(strings.Repeat("# padding\n", maxFileBytes/10+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(file); err == nil || !strings.Contains(err.Error(), "larger than 1MiB") {
		t.Errorf("Load of a huge file gave %v, want it refused for its size", err)
	}
}

// FuzzParse: no text makes Parse panic; what it accepts is valid, and what it
// refuses is refused with a file, on lines of their own.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(testdata, "*.yaml"))
	for _, file := range append(files, "../proxy.example.yaml") {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Add([]byte("\n&"))
	lineBreak := strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n") // YAML 1.1 section 4.1.4
	f.Fuzz(func(t *testing.T, data []byte) {
		lines := 1 + strings.Count(lineBreak.Replace(string(data)), "\n")
		c, err := Parse("f.yaml", data)
		if err == nil {
			if err := c.Validate(); err != nil {
				t.Fatalf("accepted, but not valid: %v", err)
			}
			return
		}
		var all Errors
		if !errors.As(err, &all) || c != nil {
			t.Fatalf("Parse gave %v, %T, want no Config and Errors", c, err)
		}
		for i, line := range strings.Split(err.Error(), "\n") {
			if !strings.HasPrefix(line, "f.yaml:") || i >= len(all) || all[i].Line > lines {
				t.Fatalf("message %q does not begin with a file and a line that exists", line)
			}
		}
	})
}
