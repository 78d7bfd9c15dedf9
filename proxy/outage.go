package proxy

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

// outageReminder is the shortest time between two log lines about failures of the upstream.
const outageReminder = time.Minute

// An outage tells which failures of the upstream deserve a log line, so that a thousand
// clients that come back to a dead backend fill no disk. It is pure: callers pass the time
// and hold a lock. The zero value is an upstream that is up.
type outage struct {
	since    time.Time // first failure since the last success; zero while the upstream is up
	failures int       // handshakes and requests turned away since then
	told     bool      // this outage has been logged
	lastLine time.Time // when a failure was last logged, in this outage or an earlier one
}

// failed records a failure. The first one of an outage is worth a line, later ones are
// counted, and a reminder is due once a minute. An upstream that only flaps keeps to the
// same rate: a new outage within a minute of the last line waits for that minute to pass.
func (o *outage) failed(now time.Time) (worthALine bool) {
	if o.failures == 0 {
		o.since = now
	}
	o.failures++
	if !o.lastLine.IsZero() && now.Sub(o.lastLine) < outageReminder {
		return false
	}
	o.lastLine = now
	o.told = true
	return true
}

// reached records a success. It ends an outage, and is worth a line where the outage had
// one; lasted and failures tell of the outage.
func (o *outage) reached(now time.Time) (worthALine bool, lasted time.Duration, failures int) {
	if o.failures == 0 {
		return false, 0, 0
	}
	worthALine, lasted, failures = o.told, now.Sub(o.since), o.failures
	o.since, o.failures, o.told = time.Time{}, 0, false
	return worthALine, lasted, failures
}

// outageLog is what everything that talks to one upstream shares: an outage, the shell that
// logs for it, and the circuit through which to dial. It is safe for concurrent use.
type outageLog struct {
	log      *zap.Logger
	upstream string
	circuit  circuit

	mu     sync.Mutex
	outage outage
}

func newOutageLog(log *zap.Logger, upstream config.URL) *outageLog {
	return &outageLog{log: log, upstream: upstreamName(upstream)}
}

// note records how a handshake or request to the upstream went: err is nil, or why there
// was no usable answer. What is the client's doing says nothing about the upstream.
func (l *outageLog) note(err error) {
	if errors.Is(err, errClientGone) {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		if l.outage.failed(now) {
			l.log.Warn("upstream gives no usable answer; clients get 502 or 504 (further failures are counted, with a line at most once a minute)",
				zap.String("upstream", l.upstream), zap.Error(err),
				zap.Int("turned_away", l.outage.failures), zap.Duration("for", now.Sub(l.outage.since)))
		}
		return
	}
	if tell, lasted, failures := l.outage.reached(now); tell {
		l.log.Info("upstream reachable again",
			zap.String("upstream", l.upstream), zap.Duration("after", lasted), zap.Int("turned_away", failures))
	}
}

// Why an upstream gave no usable answer. Every error of dial but a *refusal wraps one.
var (
	errUnreachable = errors.New("upstream unreachable")
	errTooSlow     = errors.New("upstream too slow")
	errBroken      = errors.New("upstream gave no valid answer")
	errClientGone  = errors.New("client gone")
)

// statusOf is the status a client gets for an error of dial (or of a plain request): 502
// for an upstream that cannot be reached or answers nonsense, 504 for a slow one (RFC 9110
// sections 15.6.3 and 15.6.5), what the upstream said for a *refusal. For a client that
// has gone it is 499, as proxies log it; nobody reads it.
func statusOf(err error) int {
	var refused *refusal
	switch {
	case errors.As(err, &refused):
		return refused.Status
	case errors.Is(err, errClientGone):
		return 499
	case errors.Is(err, errTooSlow):
		return 504
	}
	return 502
}

// classify wraps err, met while doing what, in the kind that statusOf and outageLog go by.
// gone says that the client is.
func classify(gone bool, what string, err error) error {
	kind := errUnreachable
	var timeout interface{ Timeout() bool } // net.Error, context and os deadlines alike
	switch {
	case gone:
		kind = errClientGone
	case errors.As(err, &timeout) && timeout.Timeout():
		kind = errTooSlow
	case errors.Is(err, errBroken), errors.Is(err, errClientGone):
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, kind, err)
}
