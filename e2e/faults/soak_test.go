package faults

import (
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// Clients that come, talk, lose their connections in every way, return or stay away, over and over: whatever
// they do, descriptors, goroutines and memory of the proxy return to where they began.
func TestSoak(t *testing.T) {
	b := startBackend(t, listenLoopback(t), 200*time.Millisecond)
	// With its garbage collected early, a process holds little more than what is in use.
	// What is to stay small is what nobody wants: ids are remembered on purpose.
	p := startProxyAt(t, place{env: []string{"GOGC=10"}}, b.addr, events,
		settings{"session.grace": "2s", "heartbeat.interval": "1s", "dedup.max_ids": 1000})
	first := mustDial(t, p.addr, "/chat?client_id=first") // with which the event loops begin
	if _, err := first.message(); err != nil {
		t.Fatal(err)
	}
	io.WriteString(first, bye)
	p.waitMetric(t, `tideover_sessions{state="attached"}`, is(0))
	idle := p.footprint(t)
	p.churn(t, b, *soakTime/4) // what is allocated once, is
	began := p.footprint(t)
	p.churn(t, b, *soakTime)
	const doormen = 16 // goroutines that wait for the next client, at the most
	var ended footprint
	eventually(t, func() error { // asking makes garbage, and that the collector come
		ended = p.footprint(t)
		if ended.descriptors > idle.descriptors+2 || ended.goroutines > idle.goroutines+2+doormen || ended.inUse > began.inUse+2<<20 {
			return fmt.Errorf("the proxy does not return to where it began: %v; after a first load %v; after a longer one %v", idle, began, ended)
		}
		return nil
	})
	t.Logf("at first: %v; after %v: %v; after %v more: %v", idle, *soakTime/4, began, *soakTime, ended)
}

// churn loads the proxy for a while: 150 clients who stay, whose connections are cut a hundred times a second; and
// others who come at 20 a second, each to talk for a moment and to vanish for good.
func (p *proxy) churn(t *testing.T, b *backend, d time.Duration) {
	t.Helper()
	c := gather(t, b, 150, dialer(b.addr), func(i int, m *member) {
		m.dial, m.pace, m.lossy = dialer(p.addr), 200*time.Millisecond, true
	})
	before := p.mustMetrics(t)
	began := time.Now()
	var strangers sync.WaitGroup
	for n := 0; time.Since(began) < d; n++ {
		if n%5 == 0 {
			strangers.Go(func() {
				w, err := dial(p.addr, fmt.Sprintf("/chat?client_id=stranger%d", n))
				if err != nil {
					t.Error(err)
					return
				}
				defer w.Close()
				if n%10 == 0 {
					if _, err := w.message(); err != nil {
						t.Error(err)
					}
				}
				cuts[n%3](w)
			})
		}
		c.members[rand.IntN(len(c.members))].cut(cuts[rand.IntN(len(cuts))])
		time.Sleep(10 * time.Millisecond)
	}
	strangers.Wait()
	c.finish(t, p)
	after := p.mustMetrics(t)
	per := func(name string) float64 { return (after[name] - before[name]) / time.Since(began).Seconds() }
	t.Logf("each second: %.0f resumes, %.0f takeovers, %.0f messages up, %.0f down, %.0f replayed",
		per("tideover_resumes_total"), per("tideover_supersedes_total"), per(`tideover_messages_total{direction="up"}`), per(`tideover_messages_total{direction="down"}`), per("tideover_replayed_messages_total"))
}

// A footprint is what a process holds.
type footprint struct {
	descriptors, goroutines float64
	resident                int
	inUse                   int // of the heap and of stacks; how much more is resident is the runtime's affair
}

func (f footprint) String() string {
	return fmt.Sprintf("%v descriptors, %v goroutines, %.1f MiB resident, %.1f MiB in use", f.descriptors, f.goroutines, float64(f.resident)/(1<<20), float64(f.inUse)/(1<<20))
}

func (p *proxy) footprint(t *testing.T) footprint {
	t.Helper()
	all := p.mustMetrics(t)
	resident, _ := p.resident(t)
	return footprint{all["process_open_fds"], all["go_goroutines"], resident, int(all["go_memstats_heap_inuse_bytes"] + all["go_memstats_stack_inuse_bytes"])}
}
