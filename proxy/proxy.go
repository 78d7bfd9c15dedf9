package proxy

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/admin"
	"github.com/tideover/tideover/proxy/dedup"
	"github.com/tideover/tideover/proxy/engine"
	"github.com/tideover/tideover/proxy/frame"
	"github.com/tideover/tideover/proxy/session"
	"github.com/tideover/tideover/proxy/slab"
)

const (
	// maxHeaderBytes bounds the header of a client's request.
	maxHeaderBytes = 64 << 10
	// idleTimeout is how long a client's HTTP connection may wait for its next request.
	idleTimeout = 2 * time.Minute
	// evictPause is the shortest time between two looks for sessions to evict.
	evictPause = 20 * time.Millisecond
)

// A Proxy is the whole of it: listeners, sessions, the engine below them. Its methods are
// safe for concurrent use.
type Proxy struct {
	log      *zap.Logger
	start    time.Time
	legs     engine.Options
	engine   engine.Engine
	tls      *tls.Config // of clients
	ids      *dedup.Cache
	relays   slab.Slab[relay]
	sessions *registry
	departed *departed
	settings atomic.Pointer[settings]
	numbers  atomic.Uint64 // of sessions
	live     atomic.Int64  // sessions and handshakes on their way to be one
	buffered atomic.Int64  // bytes in all windows
	evicting atomic.Bool
	grown    atomic.Bool // buffers over their limit grew while an eviction was under way
	stopping atomic.Bool
	serving  atomic.Bool
	counters counters
	calm     calm
	door     atomic.Pointer[door] // once it serves

	unkeyed struct { // the log line about clients without identity
		sync.Mutex
		next  time.Time
		since uint64
	}
}

// New returns a Proxy for a validated configuration. It opens nothing yet.
func New(cfg *config.Config, log *zap.Logger) (*Proxy, error) {
	p := &Proxy{
		log:      log,
		start:    time.Now(),
		sessions: newRegistry(),
		departed: newDeparted(),
		ids:      dedup.New(cfg.Dedup.MaxIDs, cfg.Dedup.TTL),
		legs: engine.Options{
			UserTimeout: max(
				time.Duration(cfg.Heartbeat.MaxMissed)*cfg.Heartbeat.Interval,
				time.Duration(cfg.Upstream.Heartbeat.MaxMissed)*cfg.Upstream.Heartbeat.Interval),
			Linger: closeTimeout,
		},
	}
	p.engine = engine.New(p.legs)
	p.tls = p.clientTLS()
	set, err := newSettings(cfg, p.ids, log)
	if err != nil {
		return nil, err
	}
	p.settings.Store(set)
	return p, nil
}

// now is the proxy's clock: monotonic, in nanoseconds since New, never 0.
func (p *Proxy) now() session.Time { return session.Time(time.Since(p.start)) + 1 }

// ListenAndServe serves until ctx is done, then stops: sessions end with 1012 for the client and
// 1001 for the upstream. It returns nil after a clean stop, else what could not be opened.
func (p *Proxy) ListenAndServe(ctx context.Context) error {
	cfg := p.settings.Load().cfg
	public, err := listen(ctx, cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for clients (listen: %s): %w", cfg.Listen, err)
	}
	defer public.Close()
	var adminListener net.Listener
	if !cfg.Admin.Listen.IsZero() {
		if adminListener, err = listen(ctx, cfg.Admin.Listen); err != nil {
			return fmt.Errorf("listen for the admin API (admin.listen: %s): %w", cfg.Admin.Listen, err)
		}
		defer adminListener.Close()
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	go p.calm.watch(watching, func(handshakes uint64) {
		if d := p.door.Load(); d != nil {
			d.sendHome(handshakes)
		}
	})
	return p.serve(ctx, public, adminListener)
}

// serve is ListenAndServe on open listeners; adminListener may be nil.
func (p *Proxy) serve(ctx context.Context, public, adminListener net.Listener) error {
	cfg := p.settings.Load().cfg
	errorLog := newServerLog(p.log)
	server := &http.Server{
		Handler:           p,
		ReadHeaderTimeout: cfg.Limits.HandshakeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          errorLog.logger(),
	}
	door := newDoor(p, &tlsListener{engine.Accepting(public, p.legs), p}, server, errorLog)
	p.door.Store(door)
	failed := make(chan error, 2)
	go func() {
		if err := door.run(); err != nil {
			failed <- err
		}
	}()
	p.serving.Store(true)
	adminServer := &http.Server{Handler: admin.NewHandler(p), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: idleTimeout, ErrorLog: errorLog.logger()}
	if adminListener != nil {
		go p.serveOn(adminServer, adminListener, failed)
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	p.stopping.Store(true)
	p.stop(door)
	_ = adminServer.Close()
	return err
}

func (p *Proxy) serveOn(server *http.Server, l net.Listener, failed chan<- error) {
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		failed <- fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
}

// stop ends all sessions and waits for their last bytes, for closeTimeout at most.
func (p *Proxy) stop(door *door) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	// Handshakes under way get their answer first; hijacked connections are not counted.
	shut := make(chan struct{})
	go func() {
		defer close(shut)
		door.shutdown(ctx)
	}()
	for wait := time.Millisecond; ctx.Err() == nil; wait = min(2*wait, 50*time.Millisecond) {
		lastOnes := false // a handshake under way may still become a session
		select {
		case <-shut:
			lastOnes = true
		default:
		}
		p.endAll()
		if lastOnes && p.live.Load() == 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	<-shut
	p.engine.Close()
	p.endAll() // those that came too late to be told
	p.settings.Load().close()
}

func (p *Proxy) endAll() {
	for r := range p.sessions.all {
		r.end(session.Stopped, frame.CodeRestart, frame.CodeGoingAway, "the proxy is stopping")
	}
}

// Reload makes cfg hold for all new sessions; those that exist keep what they began with.
// What can't change without a restart is an error, and then nothing changes.
func (p *Proxy) Reload(cfg *config.Config) error {
	old := p.settings.Load()
	switch {
	case cfg.Listen != old.cfg.Listen:
		return fmt.Errorf("reload: listen can't change from %s to %s without a restart", old.cfg.Listen, cfg.Listen)
	case cfg.Admin.Listen != old.cfg.Admin.Listen:
		return fmt.Errorf("reload: admin.listen can't change from %s to %s without a restart", old.cfg.Admin.Listen, cfg.Admin.Listen)
	}
	set, err := newSettings(cfg, p.ids, p.log)
	if err != nil {
		return fmt.Errorf("reload: %w", err)
	}
	p.ids.SetLimits(cfg.Dedup.MaxIDs, cfg.Dedup.TTL)
	p.settings.Store(set)
	old.close()
	return nil
}

// underPressure reports whether all buffers together are over their limit.
func (p *Proxy) underPressure() bool {
	return p.buffered.Load() > p.settings.Load().cfg.Limits.MaxBufferBytes
}

// account changes the sum of all buffers. It may be called with a relay locked.
func (p *Proxy) account(delta int64) {
	if p.buffered.Add(delta) > p.settings.Load().cfg.Limits.MaxBufferBytes && delta > 0 {
		p.grown.Store(true)
		p.startEvicting()
	}
}

func (p *Proxy) startEvicting() {
	if p.evicting.CompareAndSwap(false, true) {
		go p.evict()
	}
}

// evict ends the sessions that have been away for longest until the buffers are
// within their limit, or nobody is away: attached sessions then wait for receipts before they
// read on.
func (p *Proxy) evict() {
	// Where nobody is left to end, looking again at once would find nothing new.
	defer time.AfterFunc(evictPause, func() {
		p.evicting.Store(false)
		if p.grown.Load() && p.underPressure() {
			p.startEvicting()
		}
	})
	p.grown.Store(false)
	type away struct {
		r     *relay
		since session.Time
	}
	var all []away
	for r := range p.sessions.all {
		r.mu.Lock()
		if r.core.State() == session.StateAway && r.held > 0 {
			r.hold()
			all = append(all, away{r, r.core.Since()})
		}
		r.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b away) int { return cmp.Compare(a.since, b.since) })
	ended := 0
	for _, a := range all {
		if p.underPressure() && a.r.evict(a.since) {
			ended++
		}
		a.r.release()
	}
	if ended > 0 {
		p.log.Warn("buffers over limits.max_buffer_bytes: ended the sessions that were away for longest",
			zap.Int("ended", ended), zap.Int64("buffered_bytes", p.buffered.Load()))
	}
}

// retired takes the last of a relay. It is called with the relay locked, once.
func (p *Proxy) retired(r *relay) {
	p.live.Add(-1)
	p.account(-r.held)
	r.held = 0
	p.counters.retire(r)
	p.sessions.remove(r)
}

// clientFrame makes a text frame as a client would send it (RFC 6455, section 5.3).
func (p *Proxy) clientFrame(text []byte) []byte {
	var mask [4]byte
	binary.NativeEndian.PutUint32(mask[:], rand.Uint32())
	return frame.Append(make([]byte, 0, len(text)+frame.MaxHeader), frame.Text, text, &mask)
}

// noteUnkeyed logs, once a minute at most, that clients come without identity.
func (p *Proxy) noteUnkeyed(missing string) {
	u := &p.unkeyed
	u.Lock()
	defer u.Unlock()
	u.since++
	now := time.Now()
	if now.Before(u.next) {
		return
	}
	p.log.Warn("clients without a session key are relayed without grace: a drop ends their session",
		zap.String("missing", missing), zap.Uint64("clients", u.since))
	u.next, u.since = now.Add(time.Minute), 0
}

// listen opens a listener. A unix socket that nobody listens on any more is replaced.
func listen(ctx context.Context, a config.Address) (net.Listener, error) {
	lc := net.ListenConfig{KeepAlive: -1} // heartbeats watch the legs
	lc.SetMultipathTCP(false)             // of which the system tells no tcpi_bytes_acked
	l, err := lc.Listen(ctx, a.Network, a.Addr)
	if err == nil || a.Network != "unix" {
		return l, err
	}
	if info, statErr := os.Stat(a.Addr); statErr != nil || info.Mode().Type() != os.ModeSocket {
		return nil, err
	}
	if c, dialErr := net.Dial("unix", a.Addr); dialErr == nil {
		c.Close()
		return nil, err // somebody answers there
	}
	if os.Remove(a.Addr) != nil {
		return nil, err
	}
	return lc.Listen(ctx, a.Network, a.Addr)
}
