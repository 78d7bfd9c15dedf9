package admin

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// distinctStats has another number in each field, from 1 on, as the metrics list them.
func distinctStats() Stats {
	return Stats{
		SessionsAttached: 1, SessionsAway: 2, SessionsOpened: map[string]uint64{"relay": 3, "keyed": 4}, SessionsLeft: map[string]uint64{"grace_over": 5},
		LegsLost: map[string]uint64{"broken": 6}, HandshakesRefused: map[string]uint64{"conflict": 7, "bind": 0}, DialFailures: map[string]uint64{"timeout": 8},
		Resumes: 9, Supersedes: 10, MessagesUp: 11, MessagesDown: 12, BytesUp: 13, BytesDown: 14, Replayed: 15, DuplicatesDropped: 16,
		OverflowDropped: 17, Gaps: 18, Receipts: 19, HeartbeatsMissed: 20, BufferBytes: 21, BufferLimitBytes: 22, DedupIDs: 23, CircuitOpen: true,
		CertificateExpiry: map[string]time.Time{"clients": time.Unix(24, 0)},
	}
}

func TestDistinctStatsAreWhole(t *testing.T) {
	v := reflect.ValueOf(distinctStats())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Errorf("Stats.%s is zero: give it a number, and its metric a line below", v.Type().Field(i).Name)
		}
	}
}

func TestEveryNumberHasItsMetric(t *testing.T) {
	want := strings.Split(`tideover_sessions{state="attached"} 1
tideover_sessions{state="away"} 2
tideover_sessions_opened_total{mode="relay"} 3
tideover_sessions_opened_total{mode="keyed"} 4
tideover_sessions_left_total{reason="grace_over"} 5
tideover_client_legs_lost_total{cause="broken"} 6
tideover_handshakes_refused_total{reason="conflict"} 7
tideover_handshakes_refused_total{reason="bind"} 0
tideover_upstream_dial_failures_total{kind="timeout"} 8
tideover_resumes_total 9
tideover_supersedes_total 10
tideover_messages_total{direction="up"} 11
tideover_messages_total{direction="down"} 12
tideover_received_bytes_total{direction="up"} 13
tideover_received_bytes_total{direction="down"} 14
tideover_replayed_messages_total 15
tideover_duplicates_dropped_total 16
tideover_overflow_dropped_messages_total 17
tideover_gaps_total 18
tideover_receipted_messages_total 19
tideover_heartbeats_missed_total 20
tideover_buffer_bytes 21
tideover_buffer_limit_bytes 22
tideover_dedup_ids 23
tideover_upstream_circuit_open 1
tideover_certificate_expiry_timestamp_seconds{to="clients"} 24`, "\n")
	src := &fakeSource{stats: distinctStats()}
	w := ask(NewHandler(src), "GET", "/metrics")
	wantAnswer(t, w, 200, "text/plain")
	got := map[string]bool{}
	own := 0
	for line := range strings.Lines(w.Body.String()) {
		got[strings.TrimSpace(line)] = true
		if strings.HasPrefix(line, "tideover_") {
			own++
		}
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("missing: %s", line)
		}
	}
	if own != len(want) {
		t.Errorf("%d series of our own, want %d", own, len(want))
	}
	for _, name := range []string{"go_goroutines ", "process_open_fds ", "process_resident_memory_bytes "} {
		if !strings.Contains(w.Body.String(), "\n"+name) {
			t.Errorf("missing: %s", name)
		}
	}
	if src.statsOf != 1 {
		t.Errorf("one scrape took %d snapshots, want 1", src.statsOf)
	}
}

func TestMetricsKeepTheRulesOfPrometheus(t *testing.T) {
	problems, err := testutil.CollectAndLint(collector{&fakeSource{stats: distinctStats()}})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestHandlersShareNoRegistry(t *testing.T) {
	for range 2 { // a shared one would panic
		if w := ask(NewHandler(&fakeSource{}), "GET", "/metrics"); w.Code != 200 {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
	}
}
