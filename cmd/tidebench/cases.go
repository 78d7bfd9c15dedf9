//go:build linux

package main

import "time"

// A lane is one proxy's part of a case: what load does with it. The lanes of a case take turns.
type lane struct {
	row  string // which row of the report it fills
	load loadArgs
	ours bool // Tideover only
}

// takesPart says whether a proxy is measured in a lane.
func (tc *testCase) takesPart(kind *proxyKind, ln *lane) bool {
	return (!ln.ours || kind.ours()) && tc.possible(kind)
}

// possible says whether a proxy can do what the case is about.
func (tc *testCase) possible(kind *proxyKind) bool { return !tc.tls || !kind.plain }

// loadArgs are the flags of load that differ.
type loadArgs struct {
	mode                               string
	conns, size, inflight, concurrency int
	rate                               float64
	ids, syscalls                      bool
	duration                           time.Duration // 0: the usual one
	talkers                            int
}

// A testCase is a set of lanes that are measured together, so that what they show can be compared.
type testCase struct {
	name  string // for --only
	lanes []lane
	rows  []row
	tls   bool
	once  bool // needs no repetition beyond two rounds: it hardly varies
	extra bool // only if --only names it
	// How many processes of the proxy, each with a load generator of its own, share the sessions; 0 is one. A process may
	// have 20,000 descriptors in many places, and an address fewer than 30,000 ports.
	processes int
}

// A row is one line of the report.
type row struct {
	name, title, unit string
	value             func(*result) float64
	others            string  // the row whose figures of the other proxies it is compared with; "": its own
	more              bool    // more is better
	nginx64, haproxy  float64 // targets for the ratios; 0: none
	digits            int
}

func cpuPerMessage(r *result) float64     { return float64(r.ProxyCPU) / float64(r.Messages) }
func perSecond(r *result) float64         { return float64(r.Messages) / r.Seconds }
func sessionsPerSecond(r *result) float64 { return float64(r.Sessions) / r.Seconds }

// sessionsPerCPU is what a proxy could do with a whole CPU: sessions come in volleys, and in between it waits.
func sessionsPerCPU(r *result) float64     { return float64(r.Sessions) / float64(r.ProxyCPU) * 1e9 }
func syscallsPerMessage(r *result) float64 { return float64(r.Syscalls) / float64(r.Messages) }
func p50(r *result) float64                { return float64(r.Latency.P50) / 1e3 }
func p99(r *result) float64                { return float64(r.Latency.P99) / 1e3 }
func privateKiB(r *result) float64 {
	return float64(r.MemoryAfter.Private-r.MemoryBefore.Private) / 1024 / float64(r.Conns)
}
func residentKiB(r *result) float64 {
	return float64(r.MemoryAfter.RSS-r.MemoryBefore.RSS) / 1024 / float64(r.Conns)
}

// relaying is a case whose lanes differ in nothing: CPU a message, and messages a second.
func relaying(name, title string, load loadArgs, nginx64, haproxy float64) testCase {
	load.concurrency = 64
	return testCase{
		name:  name,
		lanes: []lane{{row: name, load: load}},
		rows: []row{
			{name: name, title: "CPU a message, " + title, unit: "ns", value: cpuPerMessage, nginx64: nginx64, haproxy: haproxy},
			{name: name, title: "throughput, " + title, unit: "/s", value: perSecond, more: true},
		},
	}
}

// cases returns everything that compare measures, with the targets that the project has set itself.
func cases() []testCase {
	thousand := relaying("echo128x1000", "echo 128 B, 1,000 connections", loadArgs{mode: modeEcho, conns: 1000, size: 128, inflight: 1}, 0.85, 0.78)
	ids := thousand.lanes[0]
	ids.row, ids.load.ids, ids.ours = "ids", true, true
	thousand.lanes = append(thousand.lanes, ids)
	thousand.rows = append(thousand.rows, row{
		name: "ids", others: thousand.name, title: "the same, JSON with an id in each message (others: without)", unit: "ns",
		value: cpuPerMessage, nginx64: 0.95, haproxy: 0.90,
	})
	return []testCase{
		thousand,
		relaying("echo128x100", "echo 128 B, 100 connections", loadArgs{mode: modeEcho, conns: 100, size: 128, inflight: 1}, 1.05, 0.80),
		relaying("inflight16", "echo 128 B, 100 connections, 16 in flight", loadArgs{mode: modeEcho, conns: 100, size: 128, inflight: 16}, 1.15, 1.00),
		relaying("down256x1000", "down 256 B to 1,000", loadArgs{mode: modeDown, conns: 1000, size: 256, inflight: 1}, 0.95, 0.95),
		relaying("echo16k", "echo 16 KiB, 100 connections", loadArgs{mode: modeEcho, conns: 100, size: 16 << 10, inflight: 1}, 1.00, 0.55),
		relaying("echo1m", "echo 1 MiB, 10 connections", loadArgs{mode: modeEcho, conns: 10, size: 1 << 20, inflight: 1}, 0.75, 0.90),
		{
			name: "rate20k",
			// Short: where the machine stands still now and then for a tenth of a second, that is the p99 of whatever round it hits,
			// and the median is sound as long as it hits less than half of them.
			lanes: []lane{{row: "rate", load: loadArgs{mode: modeEcho, conns: 1000, size: 128, inflight: 1, concurrency: 64, rate: 10000, duration: time.Second}}},
			rows: []row{
				{name: "rate", title: "round trip p50, 20,000 messages a second (10,000 echoes), 1,000 connections", unit: "µs", value: p50},
				{name: "rate", title: "round trip p99, the same", unit: "µs", value: p99, nginx64: 1.1, haproxy: 1.1},
				{name: "rate", title: "the p99 of a usual tenth of a second (median)", unit: "µs", value: func(r *result) float64 { return float64(r.UsualP99) / 1e3 }},
				{name: "rate", title: "the load generator's own part in it: how late it sent, p99", unit: "µs", value: func(r *result) float64 { return float64(r.Lateness.P99) / 1e3 }},
			},
		},
		{
			name: "sessions",
			lanes: []lane{
				{row: "new", load: loadArgs{mode: modeNew, conns: 64, size: 128, inflight: 1, concurrency: 64}},
				{row: "resume", load: loadArgs{mode: modeResume, conns: 1000, size: 128, inflight: 1, concurrency: 64}},
			},
			rows: []row{
				{name: "new", title: "new sessions (connect, handshake, close) a second of CPU", unit: "/s", value: sessionsPerCPU, more: true, nginx64: 0.85, haproxy: 1.0},
				{name: "new", title: "the same, as measured", unit: "/s", value: sessionsPerSecond, more: true},
				{name: "resume", others: "new", title: "resumes a second of CPU (others: new sessions)", unit: "/s", value: sessionsPerCPU, more: true, nginx64: 1.8, haproxy: 2},
				{name: "resume", others: "new", title: "the same, as measured", unit: "/s", value: sessionsPerSecond, more: true},
				{name: "resume", title: "resumes a second of CPU (others: reconnects)", unit: "/s", value: sessionsPerCPU, more: true},
			},
		},
		{
			name: "memory", once: true,
			lanes: []lane{{row: "memory", load: loadArgs{mode: modeIdle, conns: 9000, size: 128, inflight: 1, concurrency: 64}}},
			rows: []row{
				{name: "memory", title: "private memory, idle session of 9,000", unit: "KiB", value: privateKiB, nginx64: 0.08, haproxy: 0.20, digits: 2},
				{name: "memory", title: "resident memory, the same", unit: "KiB", value: residentKiB, digits: 2},
			},
		},
		{
			name: "memory-tls", once: true, tls: true,
			lanes: []lane{{row: "memory-tls", load: loadArgs{mode: modeIdle, conns: 9000, size: 128, inflight: 1, concurrency: 64}}},
			rows: []row{
				{name: "memory-tls", title: "private memory, idle session of 9,000, TLS", unit: "KiB", value: privateKiB, nginx64: 0.25, haproxy: 0.60, digits: 2},
				{name: "memory-tls", title: "resident memory, the same", unit: "KiB", value: residentKiB, digits: 2},
			},
		},
		{
			name: "tls128x1000", tls: true,
			lanes: []lane{{row: "tls128x1000", load: loadArgs{mode: modeEcho, conns: 1000, size: 128, inflight: 1, concurrency: 64}}},
			rows:  []row{{name: "tls128x1000", title: "CPU a message, echo 128 B, 1,000 connections, TLS", unit: "ns", value: cpuPerMessage}},
		},
		{
			name: "syscalls", once: true,
			lanes: []lane{{row: "syscalls", load: loadArgs{mode: modeEcho, conns: 100, size: 128, inflight: 1, concurrency: 64, syscalls: true, duration: time.Second}}},
			rows:  []row{{name: "syscalls", title: "system calls a message, echo 128 B, 100 connections", value: syscallsPerMessage, digits: 2}},
		},
		{
			name: "storm", extra: true,
			lanes: []lane{{row: "storm", load: loadArgs{mode: modeStorm, conns: 9500, size: 128, inflight: 1, concurrency: 64, rate: 2000, talkers: 500}}},
			rows: []row{
				{name: "storm", title: "9,000 clients dropped at once: half are back after", unit: "ms", value: func(r *result) float64 { return float64(r.Storm.Away.P50) / 1e6 }},
				{name: "storm", title: "99 of 100 are back after", unit: "ms", value: func(r *result) float64 { return float64(r.Storm.Away.P99) / 1e6 }},
				{name: "storm", title: "all are back after", unit: "ms", value: func(r *result) float64 { return float64(r.Storm.Away.Max) / 1e6 }},
				{name: "storm", title: "handshakes that failed and were tried again", value: func(r *result) float64 { return float64(r.Storm.Refusals) }},
				{name: "storm", title: "round trip p50 of 500 others, 2,000 echoes a second, before", unit: "µs", value: p50},
				{name: "storm", title: "the same, meanwhile", unit: "µs", value: func(r *result) float64 { return float64(r.Storm.Latency.P50) / 1e3 }},
				{name: "storm", title: "round trip p99, before", unit: "µs", value: p99},
				{name: "storm", title: "the same, meanwhile", unit: "µs", value: func(r *result) float64 { return float64(r.Storm.Latency.P99) / 1e3 }},
				{name: "storm", title: "the load generator's own part in it: how late it sent, p50", unit: "µs", value: func(r *result) float64 { return float64(r.Storm.Lateness.P50) / 1e3 }},
				{name: "storm", title: "the same, p99", unit: "µs", value: func(r *result) float64 { return float64(r.Storm.Lateness.P99) / 1e3 }},
			},
		},
		growing("grow1000", "1,000", 1000, 1),
		growing("grow9000", "9,000", 9000, 1),
		growing("grow100000", "100,000 (11 processes)", 100000, 11),
	}
}

// growing is a case that shows what a session and a message cost when there are so many sessions, all of them active.
func growing(name, sessions string, conns, processes int) testCase {
	return testCase{
		name: name, extra: true, once: true, processes: processes,
		lanes: []lane{{row: name, load: loadArgs{mode: modeGrow, conns: conns, size: 128, inflight: 1, concurrency: 64}}},
		rows: []row{
			{name: name, title: "private memory, idle session of " + sessions, unit: "KiB", value: privateKiB, digits: 2},
			{name: name, title: "CPU a message, echo 128 B, all of " + sessions, unit: "ns", value: cpuPerMessage},
		},
	}
}
