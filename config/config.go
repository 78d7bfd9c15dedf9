// Package config reads the proxy's YAML file: a strict parser, every default in
// one place ([Default]), and errors that name file, line, key and what is
// allowed. It holds data only: it opens no socket and imports no other package
// of this module. Files that the configuration names are read to be checked.
//
// A *Config is not changed after [Parse], [Load] or [Default] returned it, and
// may then be read from any number of goroutines.
package config

import (
	"net/netip"
	"time"
)

// Config mirrors the YAML file; each yaml tag is the key as a user writes it.
// The further tags hold what [Config.Validate] checks: min and max are bounds in
// the field's own notation, oneof lists the words allowed, unit:"bytes" marks a
// number that may be written as a size such as 64KiB.
type Config struct {
	Listen    Address         `yaml:"listen"`
	TLS       TLS             `yaml:"tls"`
	Admin     Admin           `yaml:"admin"`
	Log       Log             `yaml:"log"`
	Upstream  Upstream        `yaml:"upstream"`
	Session   Session         `yaml:"session"`
	Replay    Replay          `yaml:"replay"`
	Dedup     Dedup           `yaml:"dedup"`
	Heartbeat ClientHeartbeat `yaml:"heartbeat"`
	Events    Events          `yaml:"events"`
	HTTP      HTTP            `yaml:"http"`
	Limits    Limits          `yaml:"limits"`
	Shutdown  Shutdown        `yaml:"shutdown"`
}

// Admin is the listener for health, metrics and the list of sessions.
type Admin struct {
	Listen Address `yaml:"listen"` // the zero Address: off
}

// Log is how much is logged, and in which form.
type Log struct {
	Level  LogLevel  `yaml:"level" oneof:"debug info warn error"`
	Format LogFormat `yaml:"format" oneof:"json console"`
}

// LogLevel is the least severe level that is logged.
type LogLevel string

// The log levels, most talkative first.
const (
	LevelDebug LogLevel = "debug"
	LevelInfo  LogLevel = "info"
	LevelWarn  LogLevel = "warn"
	LevelError LogLevel = "error"
)

// LogFormat is the form of a log line.
type LogFormat string

// The log formats: one JSON object a line, or text for people.
const (
	FormatJSON    LogFormat = "json"
	FormatConsole LogFormat = "console"
)

// Upstream is the backend, and how its legs are dialled and watched.
type Upstream struct {
	URL            URL           `yaml:"url"`
	TLS            UpstreamTLS   `yaml:"tls"`
	ConnectTimeout time.Duration `yaml:"connect_timeout" min:"1ms"`
	Heartbeat      Heartbeat     `yaml:"heartbeat"`
	Reconnect      Reconnect     `yaml:"reconnect"`
}

// Heartbeat is how a leg's peer is watched: a ping each Interval, and a peer
// that missed MaxMissed of them in a row is taken for dead.
type Heartbeat struct {
	Interval  time.Duration `yaml:"interval" min:"1ms"`
	MaxMissed int           `yaml:"max_missed" min:"1" max:"1000"`
}

// ClientHeartbeat is Heartbeat for client legs, which may also get a text
// message at each beat. An empty Message sends none.
type ClientHeartbeat struct {
	Interval  time.Duration `yaml:"interval" min:"1ms"`
	MaxMissed int           `yaml:"max_missed" min:"1" max:"1000"`
	Message   string        `yaml:"message"`
}

// Reconnect is how a session survives the restart of its backend.
type Reconnect struct {
	Enabled      bool          `yaml:"enabled"`
	InitialDelay time.Duration `yaml:"initial_delay" min:"1ms"`
	MaxDelay     time.Duration `yaml:"max_delay" min:"1ms"`
	MaxElapsed   time.Duration `yaml:"max_elapsed" min:"1ms"`
	ReplayFirst  int           `yaml:"replay_first" min:"0" max:"1000"`
}

// Session is what identifies a session and how long it outlives a drop.
type Session struct {
	Key        []Source      `yaml:"key"`  // empty: plain relaying, unless the client speaks tideover.v1
	Bind       []Source      `yaml:"bind"` // empty: a resume has nothing to prove
	Grace      time.Duration `yaml:"grace" min:"1ms"`
	OnConflict OnConflict    `yaml:"on_conflict" oneof:"supersede reject"`
	EndOnClose []uint16      `yaml:"end_on_close"`
}

// OnConflict says who wins when a client comes with the key of a session that
// is attached to another client.
type OnConflict string

// ConflictSupersede gives the session to the new client, ConflictReject leaves
// it to the old one.
const (
	ConflictSupersede OnConflict = "supersede"
	ConflictReject    OnConflict = "reject"
)

// Replay is the window of a session: what is kept until the client has it.
type Replay struct {
	MaxMessages     int           `yaml:"max_messages" min:"1"`
	MaxBytes        int64         `yaml:"max_bytes" unit:"bytes" min:"1"`
	Overflow        Overflow      `yaml:"overflow" oneof:"end drop_oldest pause"`
	ReceiptInterval time.Duration `yaml:"receipt_interval" min:"1ms"`
	LastIDParam     string        `yaml:"last_id_param"` // empty: off
	Retain          time.Duration `yaml:"retain" min:"0s"`
}

// Overflow says what becomes of an away session whose window is full.
type Overflow string

// OverflowEnd closes the session with 1013, OverflowDropOldest loses and counts
// the oldest messages, OverflowPause stops reading the upstream.
const (
	OverflowEnd        Overflow = "end"
	OverflowDropOldest Overflow = "drop_oldest"
	OverflowPause      Overflow = "pause"
)

// Dedup is how a client's repeated messages are found and dropped.
type Dedup struct {
	Enabled bool          `yaml:"enabled"`
	IDPath  string        `yaml:"id_path"` // names of JSON object members, joined by dots
	TTL     time.Duration `yaml:"ttl" min:"1ms"`
	MaxIDs  int           `yaml:"max_ids" min:"1"` // whole proxy
	Scope   Scope         `yaml:"scope" oneof:"session global"`
}

// Scope is where an id must be unique.
type Scope string

// ScopeSession compares ids within one session, ScopeGlobal over the whole proxy.
const (
	ScopeSession Scope = "session"
	ScopeGlobal  Scope = "global"
)

// Events are the messages that tell the upstream about its client. The zero
// Template emits nothing.
type Events struct {
	Joined      Template      `yaml:"joined"`
	Away        Template      `yaml:"away"`
	Reconnected Template      `yaml:"reconnected"`
	Left        Template      `yaml:"left"`
	AwayAfter   time.Duration `yaml:"away_after" min:"0s"`
	Webhook     string        `yaml:"webhook"` // empty: off
}

// HTTP is what becomes of requests that are no WebSocket upgrade.
type HTTP struct {
	Passthrough  bool `yaml:"passthrough"`
	InjectClient bool `yaml:"inject_client"`
}

// Limits bound what clients and upstreams can make the proxy hold.
type Limits struct {
	MaxSessions      int            `yaml:"max_sessions" min:"1"`
	MaxMessageBytes  int64          `yaml:"max_message_bytes" unit:"bytes" min:"1"`
	MaxBufferBytes   int64          `yaml:"max_buffer_bytes" unit:"bytes" min:"1"` // all windows together
	HandshakeTimeout time.Duration  `yaml:"handshake_timeout" min:"1ms"`
	AllowedOrigins   []Origin       `yaml:"allowed_origins"`             // empty: any
	MaxSessionsPerIP int            `yaml:"max_sessions_per_ip" min:"0"` // 0: no limit
	TrustedProxies   []netip.Prefix `yaml:"trusted_proxies"`             // empty: none
}

// Shutdown is how the proxy stops.
type Shutdown struct {
	Drain time.Duration `yaml:"drain" min:"0s"` // closes are spread over this
}

// Default returns a new Config that holds every default; nothing else in the
// module knows one. An empty file means exactly this.
func Default() *Config {
	return &Config{
		Listen: Address{Network: "tcp", Addr: ":8080"},
		Admin:  Admin{Listen: Address{Network: "tcp", Addr: "127.0.0.1:9090"}},
		Log:    Log{Level: LevelInfo, Format: FormatJSON},
		Upstream: Upstream{
			URL:            URL{Scheme: "ws", Host: "127.0.0.1:9000"},
			ConnectTimeout: 5 * time.Second,
			Heartbeat:      Heartbeat{Interval: 30 * time.Second, MaxMissed: 2},
			Reconnect: Reconnect{
				InitialDelay: 100 * time.Millisecond,
				MaxDelay:     5 * time.Second,
				MaxElapsed:   60 * time.Second,
			},
		},
		Session: Session{
			Key:        []Source{{Kind: KindQuery, Name: "client_id"}},
			Bind:       []Source{{Kind: KindHeader, Name: "Authorization"}},
			Grace:      30 * time.Second,
			OnConflict: ConflictSupersede,
			EndOnClose: []uint16{1000},
		},
		Replay: Replay{
			MaxMessages:     1000,
			MaxBytes:        1 << 20,
			Overflow:        OverflowEnd,
			ReceiptInterval: 250 * time.Millisecond,
		},
		Dedup: Dedup{
			Enabled: true,
			IDPath:  "id",
			TTL:     5 * time.Minute,
			MaxIDs:  100_000,
			Scope:   ScopeSession,
		},
		Heartbeat: ClientHeartbeat{Interval: 30 * time.Second, MaxMissed: 2},
		HTTP:      HTTP{Passthrough: true},
		Limits: Limits{
			MaxSessions:      100_000,
			MaxMessageBytes:  16 << 20,
			MaxBufferBytes:   512 << 20,
			HandshakeTimeout: 10 * time.Second,
		},
		Shutdown: Shutdown{Drain: 10 * time.Second},
	}
}
