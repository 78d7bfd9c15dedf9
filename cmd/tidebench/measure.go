//go:build linux

package main

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"
)

// What a run can do.
const (
	modeEcho   = "echo"   // clients send, the upstream sends back
	modeDown   = "down"   // the upstream sends to all, again when all have it
	modeIdle   = "idle"   // sessions that say nothing: memory
	modeNew    = "new"    // connect, handshake, close, again with another number
	modeResume = "resume" // reset the connection, connect again with the same number
	modeGrow   = "grow"   // idle, then echo
	modeStorm  = "storm"  // most sessions are reset at once and come back, while some talk on
)

// A result is what one run measured. Counts and times are of the timed window.
type result struct {
	Round    int     `json:"round"` // of the comparison
	Mode     string  `json:"mode"`
	Conns    int     `json:"conns"`
	Size     int     `json:"size"`
	Seconds  float64 `json:"seconds"`
	Messages int64   `json:"messages"` // relayed by the proxy, each way: an echo is two
	Sessions int64   `json:"sessions"` // opened or resumed

	ProxyCPU  int64 `json:"proxy_cpu_ns"`
	ProxyWait int64 `json:"proxy_wait_ns"` // runnable without a CPU
	// ProxyCPU by another account, in steps of 10 ms.
	ProxyUser   int64   `json:"proxy_user_ns"`
	ProxySystem int64   `json:"proxy_system_ns"`
	LoadCPU     int64   `json:"load_cpu_ns"` // of this process
	Others      float64 `json:"others"`      // CPUs busy with neither
	Steal       float64 `json:"steal"`       // CPUs taken by the hypervisor
	Load        float64 `json:"load_average"`
	Syscalls    int64   `json:"syscalls,omitempty"` // of the proxy

	Latency  spread `json:"latency"`
	UsualP99 int64  `json:"usual_p99_ns"` // the median of those that each tenth of a second has by itself
	Lateness spread `json:"lateness"`     // of this process in sending, which is in the latency
	Storm    struct {
		Away     spread `json:"away"`     // from the first drop until a client was back; the longest is when all were
		Latency  spread `json:"latency"`  // of those that were not dropped, until then
		Lateness spread `json:"lateness"` // of this process in sending for them, which is in their latency
		Refusals int64  `json:"refusals"` // handshakes that failed, and were tried again
	} `json:"storm"`

	MemoryBefore memory `json:"memory_before"`
	MemoryAfter  memory `json:"memory_after"`

	Pings            int64  `json:"pings"`             // that the proxy sent to clients, whole run
	UpstreamSessions int    `json:"upstream_sessions"` // that the proxy opened in the window
	Corrupt          int    `json:"corrupt"`
	Lost             int    `json:"lost"`
	Broken           int    `json:"broken"` // sessions that ended by themselves
	Fault            string `json:"fault,omitempty"`
}

// A spread is what many durations come to, in nanoseconds.
type spread struct {
	Count int   `json:"count"`
	P50   int64 `json:"p50_ns"`
	P99   int64 `json:"p99_ns"`
	Max   int64 `json:"max_ns"`
}

// A latency is that of one message, in nanoseconds.
type latency struct {
	due  int64 // when it was to be sent
	took int64 // from then until it was back
}

func taken(all []latency) []int64 {
	took := make([]int64, len(all))
	for i, l := range all {
		took[i] = l.took
	}
	return took
}

// usualP99 is the median of the 99th percentiles of those that were due in the same tenth of a second. A machine that stands
// still now and then spoils a few of them, but the p99 of the whole run.
func usualP99(all []latency) int64 {
	tenths := map[int64][]int64{}
	for _, l := range all {
		at := l.due / int64(100*time.Millisecond)
		tenths[at] = append(tenths[at], l.took)
	}
	var p99s []int64
	for _, t := range tenths {
		slices.Sort(t)
		p99s = append(p99s, percentile(t, 0.99))
	}
	slices.Sort(p99s)
	return percentile(p99s, 0.5)
}

// add makes res the result of two processes that measured at the same time.
func (r *result) add(o *result) {
	r.Conns += o.Conns
	r.Messages += o.Messages
	r.Sessions += o.Sessions
	r.ProxyCPU += o.ProxyCPU
	r.ProxyWait += o.ProxyWait
	r.ProxyUser += o.ProxyUser
	r.ProxySystem += o.ProxySystem
	r.LoadCPU += o.LoadCPU
	r.Syscalls += o.Syscalls
	r.MemoryBefore = memory{r.MemoryBefore.RSS + o.MemoryBefore.RSS, r.MemoryBefore.Private + o.MemoryBefore.Private}
	r.MemoryAfter = memory{r.MemoryAfter.RSS + o.MemoryAfter.RSS, r.MemoryAfter.Private + o.MemoryAfter.Private}
	r.Pings += o.Pings
	r.UpstreamSessions += o.UpstreamSessions
	r.Corrupt += o.Corrupt
	r.Lost += o.Lost
	r.Broken += o.Broken
	r.Fault = cmp.Or(r.Fault, o.Fault)
	r.Others = 0 // each took the other one for other work
}

// spreadOf sorts what it is given.
func spreadOf(d []int64) spread {
	slices.Sort(d)
	return spread{len(d), percentile(d, 0.5), percentile(d, 0.99), percentile(d, 1)}
}

func (s spread) String() string {
	return fmt.Sprintf("p50 %v, p99 %v, longest %v", time.Duration(s.P50), time.Duration(s.P99), time.Duration(s.Max))
}

// check turns what must not happen to a relay into words; "" is a sound run.
func (r *result) check() string {
	if r.Corrupt+r.Lost+r.Broken == 0 {
		return ""
	}
	return fmt.Sprintf("%d messages corrupt, %d lost, %d sessions broken; first: %s", r.Corrupt, r.Lost, r.Broken, r.Fault)
}

// A reading is everything that is read at both ends of a window.
type reading struct {
	at       int64
	proxy    usage
	self     usage
	machine  machine
	received int64
	turned   int64
	accepted int
	syscalls int64
}

func (r *run) read(c *syscallCounter) (reading, error) {
	now := reading{at: r.now(), received: r.received, turned: r.turned, machine: readMachine()}
	var err error
	if now.proxy, err = readUsage(r.pids); err != nil {
		return now, err
	}
	if now.self, err = readUsage([]int{os.Getpid()}); err != nil {
		return now, err
	}
	for _, up := range r.ups {
		now.accepted += up.Accepted
	}
	if c != nil {
		now.syscalls = c.read()
	}
	return now, nil
}

// between fills in what a window shows.
func (res *result) between(a, b reading) {
	res.Seconds = float64(b.at-a.at) / 1e9
	proxy, self := b.proxy.sub(a.proxy), b.self.sub(a.self)
	res.ProxyCPU, res.ProxyWait, res.LoadCPU = proxy.CPU, proxy.Wait, self.CPU
	res.ProxyUser, res.ProxySystem = proxy.User, proxy.System
	ticks := float64(b.machine.Total - a.machine.Total)
	if ticks > 0 {
		busy := float64(b.machine.Total-b.machine.Idle-a.machine.Total+a.machine.Idle) / 100
		res.Others = max(0, (busy-float64(proxy.CPU+self.CPU)/1e9)/res.Seconds)
		res.Steal = float64(b.machine.Steal-a.machine.Steal) / 100 / res.Seconds
	}
	res.Load = loadAverage()
	res.Messages = b.received - a.received
	res.Sessions = b.turned - a.turned
	res.UpstreamSessions = b.accepted - a.accepted
	res.Syscalls = b.syscalls - a.syscalls
}

// measure does one run.
func measure(o options) (res result, err error) {
	r, err := newRun(o)
	if err != nil {
		return res, err
	}
	defer r.close()
	res = result{Mode: o.mode, Conns: o.conns, Size: o.size}
	if (o.mode == modeIdle || o.mode == modeGrow) && len(o.pids) > 0 {
		if res.MemoryBefore, err = readMemory(o.pids); err != nil {
			return res, err
		}
	}
	if o.mode != modeNew {
		if err := r.connect(); err != nil {
			return res, err
		}
	}
	var counter *syscallCounter
	if o.syscalls {
		if counter, err = countSyscalls(o.pids); err != nil {
			return res, err
		}
		defer counter.close()
	}
	switch o.mode {
	case modeEcho:
		err = r.echo(&res, counter)
	case modeDown:
		err = r.down(&res, counter)
	case modeIdle:
		err = r.idle(&res)
	case modeGrow:
		if err = r.idle(&res); err == nil {
			err = r.meet()
		}
		if err == nil {
			err = r.echo(&res, counter)
		}
	case modeStorm:
		err = r.storm(&res)
	case modeNew, modeResume:
		err = r.turnover(&res, counter)
	default:
		err = fmt.Errorf("--mode %s: want echo, down, idle, new, resume, grow or storm", o.mode)
	}
	res.Pings, res.Corrupt, res.Broken, res.Fault = r.pings, r.corrupt, r.broken, r.firstFault
	res.Lost = max(0, r.underway)
	if res.Lost > 0 && res.Fault == "" {
		res.Fault = fmt.Sprintf("%d messages had not come %v after the end", res.Lost, o.drain)
	}
	if o.mode != modeStorm {
		res.UsualP99 = usualP99(r.latencies)
		res.Latency, res.Lateness = spreadOf(taken(r.latencies)), spreadOf(r.lateness)
	}
	return res, err
}

// window warms up, then reads at both ends of the timed part, which is longer than asked for if nothing has come by
// then; step runs the loop once.
func (r *run) window(res *result, c *syscallCounter, step func() error) error {
	var ends [2]reading
	for i, length := range []time.Duration{r.warmup, r.duration} {
		end, done := r.now()+int64(length), r.received+r.turned
		latest := end + int64(r.drain)
		for now := r.now(); r.broken == 0 && (now < end || now < latest && r.received+r.turned == done); now = r.now() {
			if err := step(); err != nil {
				return err
			}
		}
		var err error
		if ends[i], err = r.read(c); err != nil {
			return err
		}
	}
	res.between(ends[0], ends[1])
	return nil
}

// finish waits for what is under way.
func (r *run) finish() error {
	r.sending = false
	_, err := r.until(r.drain, func() bool { return r.underway == 0 || r.broken > 0 })
	return err
}

// poll is one turn of the loop.
func (r *run) poll() error { return r.l.poll(20 * time.Millisecond) }

func (r *run) echo(res *result, c *syscallCounter) error {
	if r.rate > 0 {
		return r.echoPaced(res, c)
	}
	r.sending = true
	for _, s := range r.sessions {
		r.send(s, r.inflight)
	}
	if err := r.window(res, c, r.poll); err != nil {
		return err
	}
	res.Messages *= 2 // up and down
	return r.finish()
}

func (r *run) echoPaced(res *result, c *syscallCounter) error {
	p := &pace{start: r.now(), rate: r.rate}
	r.from, r.before = p.start+int64(r.warmup), p.start+int64(r.warmup+r.duration)
	r.latencies = make([]latency, 0, int(r.rate*r.duration.Seconds())+1)
	step := r.paced(p, r.sessions)
	if err := r.window(res, c, step); err != nil {
		return err
	}
	res.Messages *= 2
	// What was due in the window counts, even if this process was too late for it.
	for p.when(p.next) < r.before && r.broken == 0 {
		if err := step(); err != nil {
			return err
		}
	}
	return r.finish()
}

// paced returns a step that sends what is due, to sessions in turn. It never sleeps: waking up late would look
// like latency of the proxy.
func (r *run) paced(p *pace, sessions []*session) func() error {
	return func() error {
		for now := r.now(); ; {
			n := p.next
			due, ok := p.take(now)
			if !ok {
				return r.l.poll(0)
			}
			s := sessions[n%int64(len(sessions))]
			s.due = append(s.due, due)
			if due >= r.from && due < r.before {
				r.lateness = append(r.lateness, r.now()-due)
			}
			r.send(s, 1)
		}
	}
}

func (r *run) down(res *result, c *syscallCounter) error {
	round := uint64(0)
	if err := r.window(res, c, func() error {
		if r.underway == 0 {
			round++
			r.underway += len(r.sessions)
			r.call(round)
		}
		return r.poll()
	}); err != nil {
		return err
	}
	return r.finish()
}

func (r *run) idle(res *result) error {
	if err := r.exchange(); err != nil {
		return err
	}
	if _, err := r.until(r.settle, func() bool { return r.broken > 0 }); err != nil {
		return err
	}
	if len(r.pids) > 0 {
		var err error
		if res.MemoryAfter, err = readMemory(r.pids); err != nil {
			return err
		}
	}
	return r.exchange()
}
