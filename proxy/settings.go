package proxy

import (
	"crypto/tls"
	"math"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/dedup"
	"github.com/tideover/tideover/proxy/presence"
	"github.com/tideover/tideover/proxy/session"
)

// closeTimeout is how long a peer may take to answer a Close, or to prove that it has
// received what came before the connection is closed.
const closeTimeout = 5 * time.Second

// settings is what a configuration means for new sessions. A reload makes another one;
// sessions keep theirs.
type settings struct {
	cfg         *config.Config
	core        session.Config
	events      *presence.Renderer
	dedup       *deduper // nil: off
	dialer      *dialer
	certificate *pemFiles[tls.Certificate] // for clients; nil: plain text
	upstreamTLS *pemFiles[tls.Config]      // nil: plain text
	passthrough *passthrough               // nil: off
}

func newSettings(cfg *config.Config, ids *dedup.Cache, log *zap.Logger) (*settings, error) {
	outages := newOutageLog(log, cfg.Upstream.URL)
	set := &settings{
		cfg:    cfg,
		events: presence.NewRenderer(cfg.Events),
		core: session.Config{
			Grace:           cfg.Session.Grace,
			AwayAfter:       cfg.Events.AwayAfter,
			ReceiptInterval: cfg.Replay.ReceiptInterval,
			CloseTimeout:    closeTimeout,
			Client:          session.Heartbeat{Interval: cfg.Heartbeat.Interval, MaxMissed: cfg.Heartbeat.MaxMissed},
			Upstream:        session.Heartbeat(cfg.Upstream.Heartbeat),
			BeatMessage:     []byte(cfg.Heartbeat.Message),
			MaxMessages:     cfg.Replay.MaxMessages,
			MaxBytes:        int(min(cfg.Replay.MaxBytes, math.MaxInt32)),
			MaxMessageBytes: cfg.Limits.MaxMessageBytes,
			Overflow:        overflowOf(cfg.Replay.Overflow),
			EndOnClose:      cfg.Session.EndOnClose,
		},
	}
	var err error
	if cfg.TLS.CertFile != "" {
		if set.certificate, err = openCertificate(cfg.TLS, log); err != nil {
			return nil, err
		}
	}
	if cfg.Upstream.URL.TLS() {
		if set.upstreamTLS, err = openUpstreamTLS(cfg.Upstream, log); err != nil {
			return nil, err
		}
	}
	set.dialer = newDialer(cfg.Upstream, set.upstreamTLS, outages)
	if cfg.HTTP.Passthrough {
		set.passthrough = newPassthrough(cfg.Upstream, set.upstreamTLS, outages)
		if cfg.HTTP.InjectClient {
			set.passthrough.inject = &injector{log: log}
		}
	}
	if cfg.Dedup.Enabled {
		path, err := dedup.ParsePath(cfg.Dedup.IDPath)
		if err != nil {
			return nil, err
		}
		set.dedup = &deduper{path: path, ids: ids, global: cfg.Dedup.Scope == config.ScopeGlobal}
		set.core.Dedup = set.dedup
	}
	return set, nil
}

func overflowOf(o config.Overflow) session.Overflow {
	switch o {
	case config.OverflowDropOldest:
		return session.OverflowDropOldest
	case config.OverflowPause:
		return session.OverflowPause
	}
	return session.OverflowEnd
}

// A deduper joins the scan for ids with the one memory of them. It implements
// session.Deduper.
type deduper struct {
	path   dedup.Path
	ids    *dedup.Cache
	global bool
}

func (d *deduper) Find(json []byte) (dedup.ID, bool) { return d.path.Find(json) }

func (d *deduper) Seen(number uint64, id dedup.ID, now session.Time) bool {
	return d.ids.Seen(d.scope(number), id, int64(now))
}

func (d *deduper) mark(number uint64, id dedup.ID, now session.Time) {
	d.ids.Mark(d.scope(number), id, int64(now))
}

func (d *deduper) scope(number uint64) uint64 {
	if d.global {
		return 0
	}
	return number // counts from 1
}

// close lets go of what only idle connections hold.
func (set *settings) close() {
	if set.passthrough != nil {
		set.passthrough.close()
	}
}
