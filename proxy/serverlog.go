package proxy

import (
	"bytes"
	"log"
	"sync"
	"time"

	"go.uber.org/zap"
)

// acceptReminder is the shortest time between two log lines about clients that can't be accepted.
const acceptReminder = time.Minute

// newServerLog gives what net/http's server has to say the level it deserves. Most of it is the doing of some
// client (a handshake that is none, a TLS record that is none). A panic is a fault of ours, and a failing
// accept (mostly for want of descriptors) keeps everybody out: operators must hear of those.
func newServerLog(zlog *zap.Logger) *serverLog { return &serverLog{log: zlog} }

// logger is what net/http takes.
func (s *serverLog) logger() *log.Logger { return log.New(s, "", 0) }

type serverLog struct {
	log *zap.Logger

	mu    sync.Mutex
	next  time.Time // when the next failing accept is worth a line
	since int       // failures since the last line
}

var (
	panicLine  = []byte("http: panic serving ")
	acceptLine = []byte("http: Accept error: ")
)

// Write takes one message of net/http; log.Logger makes one call for each.
func (s *serverLog) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	switch {
	case bytes.HasPrefix(line, panicLine):
		s.panicked(text)
	case bytes.HasPrefix(line, acceptLine):
		s.acceptFailed(text[len(acceptLine):])
	default:
		s.log.Debug(text)
	}
	return len(line), nil
}

func (s *serverLog) panicked(text string) {
	s.log.Error("a request made the proxy panic; it is the only one that is lost", zap.String("panic", text))
}

func (s *serverLog) acceptFailed(text string) {
	if failures, worthALine := s.refused(time.Now()); worthALine {
		s.log.Warn("clients can't be accepted for now: they wait (further failures are counted, with a line at most once a minute)",
			zap.String("error", text), zap.Int("failures", failures))
	}
}

// refused counts a failing accept.
func (s *serverLog) refused(now time.Time) (failures int, worthALine bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since++
	if now.Before(s.next) {
		return 0, false
	}
	failures = s.since
	s.next, s.since = now.Add(acceptReminder), 0
	return failures, true
}
