package config

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxDuration bounds every duration: sums and products of a few cannot overflow.
	maxDuration = 365 * 24 * time.Hour
	maxSize     = 1 << 40 // bytes
	// maxIDPath is how many names deep an id may stand.
	maxIDPath = 32
)

// Validate checks values and how they go together, as [Parse] does, for a Config
// that was built in code. Its errors are of type [Errors], without file and line.
func (c *Config) Validate() error {
	var errs Errors
	c.check(nil, map[string]bool{}, func(_ int, key, format string, args ...any) {
		errs = append(errs, &Error{Key: key, Msg: fmt.Sprintf(format, args...)})
	})
	if len(errs) == 0 {
		return nil
	}
	return errs
}

// checker carries what the checks of one Config share.
type checker struct {
	*Config
	lines map[string]int  // where the user set each key
	bad   map[string]bool // keys with an error; a second one would only confuse
	fail  func(line int, key, format string, args ...any)
}

// check calls fail for each value that is not allowed.
func (c *Config) check(lines map[string]int, bad map[string]bool, fail func(line int, key, format string, args ...any)) {
	k := &checker{Config: c, lines: lines, fail: fail}
	for _, f := range fields(c) {
		if err := k.single(f); err != nil && !bad[f.key] {
			bad[f.key] = true
			fail(lines[f.key], f.key, "%v", err)
		}
	}
	k.bad = maps.Clone(bad) // so that what together finds hides nothing else that it finds
	k.together()
}

// single checks one value against the tags of its field and the rules of its type.
func (k *checker) single(f field) error {
	lo, hi := f.tag.Get("min"), f.tag.Get("max")
	switch v := f.value.Interface().(type) {
	case int:
		if low, err := parseInt(scalar{text: lo}); err == nil && v < low {
			return fmt.Errorf("%d is too little: want at least %s", v, lo)
		}
		if high, err := parseInt(scalar{text: hi}); err == nil && v > high {
			return fmt.Errorf("%d is too much: want at most %s", v, hi)
		}
	case int64:
		if low, err := parseSize(scalar{text: lo}); err == nil && v < low {
			return fmt.Errorf("%d is too little: want at least %s", v, lo)
		}
		if v > maxSize {
			return fmt.Errorf("%d is too much: want at most %s", v, formatSize(maxSize))
		}
	case time.Duration:
		if low, err := time.ParseDuration(lo); err == nil && v < low {
			return fmt.Errorf("%v is too short: want at least %s", v, lo)
		}
		if v > maxDuration {
			return fmt.Errorf("%v is too long: want at most %v", v, maxDuration)
		}
	case Address:
		if again, err := ParseAddress(v.String()); err != nil || again != v {
			return errAddress
		}
		if f.key == "listen" && v.IsZero() {
			return fmt.Errorf("must not be empty: %w", errAddress)
		}
	case URL:
		if again, err := ParseURL(v.String()); err != nil || again != v {
			return errURL
		}
	case []Source:
		return each(v, errSource, ParseSource)
	case []Origin:
		return each(v, errOrigin, func(s string) (Origin, error) { return ParseOrigin(s) })
	case []netip.Prefix:
		return each(v, errors.New("want CIDRs such as 10.0.0.0/8"), parsePrefix)
	case []uint16:
		for _, code := range v {
			if !closeCode(int(code)) {
				return errCloseCode
			}
		}
	}
	if err := f.oneOf(f.value.String()); err != nil {
		return fmt.Errorf("%s: %w", shown(f.value.String()), err)
	}
	return nil
}

// each reports whether all of vs are as their parser would have made them.
func each[T comparable](vs []T, bad error, parse func(string) (T, error)) error {
	for _, v := range vs {
		if again, err := parse(fmt.Sprint(v)); err != nil || again != v {
			return bad
		}
	}
	return nil
}

var errCloseCode = errors.New("want close codes a client can send: 1000-1003, 1007-1014 or 3000-4999, or 1005 for a Close without code (1006 is a drop, which starts the grace)")

// closeCode reports whether a client's Close may bear code (RFC 6455 section 7.4);
// 1005 stands for one that bears none.
func closeCode(code int) bool {
	return code >= 1000 && code <= 1003 || code == 1005 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
}

// rule records that values do not go together, at the first of their keys that the
// user set, unless one of them is wrong by itself.
func (k *checker) rule(wrong bool, keys []string, format string, args ...any) {
	if !wrong {
		return
	}
	at := keys[0]
	for i := len(keys) - 1; i >= 0; i-- {
		if k.bad[keys[i]] {
			return
		}
		if k.lines[keys[i]] > 0 {
			at = keys[i]
		}
	}
	k.fail(k.lines[at], at, format, args...)
}

// together checks what no value shows by itself.
func (k *checker) together() {
	path := strings.Split(k.Dedup.IDPath, ".")
	k.rule(slices.Contains(path, "") || len(path) > maxIDPath || !utf8.ValidString(k.Dedup.IDPath) || strings.ContainsRune(k.Dedup.IDPath, utf8.RuneError),
		[]string{"dedup.id_path"}, "want names of JSON object members joined by single dots, such as id or meta.id, at most %d of them", maxIDPath)
	k.rule(!utf8.ValidString(k.Heartbeat.Message), []string{"heartbeat.message"}, "want UTF-8 text, which it is sent as")
	k.certificates()
	k.rule(k.Upstream.Reconnect.InitialDelay > k.Upstream.Reconnect.MaxDelay, []string{"upstream.reconnect.initial_delay", "upstream.reconnect.max_delay"},
		"upstream.reconnect.initial_delay (%v) must not be longer than upstream.reconnect.max_delay (%v)", k.Upstream.Reconnect.InitialDelay, k.Upstream.Reconnect.MaxDelay)
	k.rule(k.Events.AwayAfter >= k.Session.Grace, []string{"events.away_after", "session.grace"},
		"events.away_after (%v) must be shorter than session.grace (%v), or away would never be sent", k.Events.AwayAfter, k.Session.Grace)
	k.rule(k.Replay.MaxBytes > k.Limits.MaxBufferBytes, []string{"replay.max_bytes", "limits.max_buffer_bytes"},
		"replay.max_bytes (%s) must not be more than limits.max_buffer_bytes (%s), which all windows share", formatSize(k.Replay.MaxBytes), formatSize(k.Limits.MaxBufferBytes))
	k.rule(k.Limits.MaxMessageBytes > k.Limits.MaxBufferBytes, []string{"limits.max_message_bytes", "limits.max_buffer_bytes"},
		"limits.max_message_bytes (%s) must not be more than limits.max_buffer_bytes (%s), or one message could fill it", formatSize(k.Limits.MaxMessageBytes), formatSize(k.Limits.MaxBufferBytes))
	k.rule(overlap(k.Listen, k.Admin.Listen), []string{"admin.listen", "listen"},
		"listen (%v) and admin.listen (%v) must not share a port; give admin.listen its own, or \"\" for none", k.Listen, k.Admin.Listen)
	for _, own := range []struct {
		key string
		Address
	}{{"listen", k.Listen}, {"admin.listen", k.Admin.Listen}} {
		k.rule(reaches(k.Upstream.URL, own.Address), []string{"upstream.url", own.key},
			"upstream.url leads to this proxy's own %s (%v); want the address of the backend", own.key, own.Address)
	}
}

// overlap reports whether two listeners would be in each other's way.
func overlap(a, b Address) bool {
	if a.IsZero() || a.Network != b.Network {
		return false
	}
	if a.Network == "unix" {
		return a == b
	}
	hostA, portA, _ := net.SplitHostPort(a.Addr)
	hostB, portB, _ := net.SplitHostPort(b.Addr)
	return portA == portB && portA != "0" && (hostA == hostB || wildcard(hostA) || wildcard(hostB))
}

// reaches reports whether u surely leads to the listener a of this machine.
func reaches(u URL, a Address) bool {
	network, address := u.Dial()
	if a.IsZero() || network != a.Network {
		return false
	}
	if network == "unix" {
		return address == a.Addr
	}
	host, port, _ := net.SplitHostPort(address)
	ownHost, ownPort, _ := net.SplitHostPort(a.Addr)
	return port == ownPort && (host == ownHost || local(host) && (wildcard(ownHost) || local(ownHost)))
}

func wildcard(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "" || err == nil && ip.IsUnspecified()
}

func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && (ip.IsLoopback() || ip.IsUnspecified())
}
