package admin

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Stats sums up the whole proxy at one moment: gauges tell of now, counters of all the
// time since the start, of sessions that have left and of those that live. A map has one
// number for each value of its metric's label; give also those that are zero, so that a
// first incident shows as a rise.
type Stats struct {
	// Gauges.
	SessionsAttached int64
	SessionsAway     int64
	BufferBytes      int64 // in all windows
	BufferLimitBytes int64 // limits.max_buffer_bytes
	DedupIDs         int64 // remembered
	CircuitOpen      bool  // the upstream is known to be down: few handshakes get as far as a dial

	// CertificateExpiry is when the proxy's own certificates expire, by who sees them: clients,
	// upstream. Those that there are not are absent.
	CertificateExpiry map[string]time.Time

	// Counters.
	SessionsOpened    map[string]uint64 // by mode: relay (no key, no grace), keyed, counted (tideover.v1)
	SessionsLeft      map[string]uint64 // by reason
	LegsLost          map[string]uint64 // client legs, by cause
	HandshakesRefused map[string]uint64 // by reason; conflict: on_conflict reject
	DialFailures      map[string]uint64 // upstream dials, by kind: unreachable, timeout, broken
	Resumes           uint64
	Supersedes        uint64
	MessagesUp        uint64 // from clients
	MessagesDown      uint64 // from upstreams
	BytesUp           uint64 // of their frames
	BytesDown         uint64
	Replayed          uint64 // messages that resumes handed over
	DuplicatesDropped uint64
	OverflowDropped   uint64 // messages lost to replay.overflow drop_oldest
	Gaps              uint64 // resumes that could not be whole
	Receipts          uint64 // messages that clients are known to have
	HeartbeatsMissed  uint64 // on both legs
}

// A metric is one family of series read from Stats.
type metric struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	read func(*Stats, func(value float64, label ...string))
}

func newMetric(kind prometheus.ValueType, name, help string, label []string, read func(*Stats, func(float64, ...string))) metric {
	return metric{prometheus.NewDesc("tideover_"+name, help, label, nil), kind, read}
}

func gauge(name, help string, of func(*Stats) int64) metric {
	return newMetric(prometheus.GaugeValue, name, help, nil, func(s *Stats, add func(float64, ...string)) { add(float64(of(s))) })
}

func counter(name, help string, of func(*Stats) uint64) metric {
	return newMetric(prometheus.CounterValue, name, help, nil, func(s *Stats, add func(float64, ...string)) { add(float64(of(s))) })
}

func counterBy(label, name, help string, of func(*Stats) map[string]uint64) metric {
	return newMetric(prometheus.CounterValue, name, help, []string{label}, func(s *Stats, add func(float64, ...string)) {
		for value, n := range of(s) {
			add(float64(n), value)
		}
	})
}

// counterUpDown is a counter of each direction: up from clients, down from upstreams.
func counterUpDown(name, help string, of func(*Stats) (up, down uint64)) metric {
	return newMetric(prometheus.CounterValue, name, help, []string{"direction"}, func(s *Stats, add func(float64, ...string)) {
		up, down := of(s)
		add(float64(up), "up")
		add(float64(down), "down")
	})
}

var metrics = []metric{
	newMetric(prometheus.GaugeValue, "sessions", "Sessions that live now, by state: attached (the client is there) or away (its grace runs).", []string{"state"},
		func(s *Stats, add func(float64, ...string)) {
			add(float64(s.SessionsAttached), Attached)
			add(float64(s.SessionsAway), Away)
		}),
	counterBy("mode", "sessions_opened_total", "Sessions opened, by mode: relay (without session.key, so without grace), keyed, or counted (tideover.v1).",
		func(s *Stats) map[string]uint64 { return s.SessionsOpened }),
	counterBy("reason", "sessions_left_total", "Sessions that have left, by reason.",
		func(s *Stats) map[string]uint64 { return s.SessionsLeft }),
	counter("resumes_total", "Clients that came back to a session that was away.",
		func(s *Stats) uint64 { return s.Resumes }),
	counter("supersedes_total", "Clients that took the place of one that was still attached.",
		func(s *Stats) uint64 { return s.Supersedes }),
	counterBy("cause", "client_legs_lost_total", "Client connections lost, by cause.",
		func(s *Stats) map[string]uint64 { return s.LegsLost }),
	counterBy("reason", "handshakes_refused_total", "WebSocket handshakes of clients that were refused, by reason.",
		func(s *Stats) map[string]uint64 { return s.HandshakesRefused }),
	counterBy("kind", "upstream_dial_failures_total", "Dials of the upstream that brought no answer, by kind: unreachable, timeout or broken.",
		func(s *Stats) map[string]uint64 { return s.DialFailures }),
	counterUpDown("messages_total", "WebSocket messages received, by direction: up from clients, down from upstreams.",
		func(s *Stats) (up, down uint64) { return s.MessagesUp, s.MessagesDown }),
	counterUpDown("received_bytes_total", "Bytes of the messages' frames received, by direction: up from clients, down from upstreams.",
		func(s *Stats) (up, down uint64) { return s.BytesUp, s.BytesDown }),
	counter("replayed_messages_total", "Messages that resumes handed over, again or for the first time.",
		func(s *Stats) uint64 { return s.Replayed }),
	counter("duplicates_dropped_total", "Client messages dropped because their id had been seen.",
		func(s *Stats) uint64 { return s.DuplicatesDropped }),
	counter("overflow_dropped_messages_total", "Messages for clients that were away, lost to replay.overflow drop_oldest.",
		func(s *Stats) uint64 { return s.OverflowDropped }),
	counter("gaps_total", "Resumes that could not be whole: the window no longer held all messages.",
		func(s *Stats) uint64 { return s.Gaps }),
	counter("receipted_messages_total", "Messages that clients are known to have received.",
		func(s *Stats) uint64 { return s.Receipts }),
	counter("heartbeats_missed_total", "Heartbeats that a client or an upstream did not answer.",
		func(s *Stats) uint64 { return s.HeartbeatsMissed }),
	gauge("buffer_bytes", "Bytes held in the windows of all sessions.",
		func(s *Stats) int64 { return s.BufferBytes }),
	gauge("buffer_limit_bytes", "The limit of tideover_buffer_bytes (limits.max_buffer_bytes), over which the longest-away sessions end.",
		func(s *Stats) int64 { return s.BufferLimitBytes }),
	gauge("dedup_ids", "Ids of messages remembered to find duplicates.",
		func(s *Stats) int64 { return s.DedupIDs }),
	gauge("upstream_circuit_open", "1 while the upstream is known to be down, so that clients are refused at once, save for one at a time whose dial is the probe; else 0.",
		func(s *Stats) int64 {
			if s.CircuitOpen {
				return 1
			}
			return 0
		}),
	newMetric(prometheus.GaugeValue, "certificate_expiry_timestamp_seconds", "When the proxy's certificates expire, as Unix time, by who sees them: clients (tls) or upstream (upstream.tls). Absent without one.", []string{"to"},
		func(s *Stats, add func(float64, ...string)) {
			for to, at := range s.CertificateExpiry {
				add(float64(at.Unix()), to)
			}
		}),
}

// collector turns one snapshot for each scrape into metrics.
type collector struct{ src Source }

func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range metrics {
		ch <- m.desc
	}
}

func (c collector) Collect(ch chan<- prometheus.Metric) {
	stats := c.src.Stats()
	for _, m := range metrics {
		m.read(&stats, func(value float64, label ...string) {
			ch <- prometheus.MustNewConstMetric(m.desc, m.kind, value, label...)
		})
	}
}

// metricsHandler serves the proxy's metrics and those of its process and of the Go
// runtime, from a registry of its own.
func metricsHandler(src Source) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collector{src},
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
