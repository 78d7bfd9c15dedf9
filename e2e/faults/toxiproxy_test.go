package faults

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// toxiproxy is Shopify's TCP proxy that hurts what it carries. It can't reorder bytes: nothing that speaks TCP can.
type toxiproxy struct {
	t     *testing.T
	api   string
	count atomic.Int32
}

func startToxiproxy(t *testing.T) *toxiproxy {
	t.Helper()
	program := buildToxiproxy(t)
	x := &toxiproxy{t: t, api: proxytest.FreeAddr(t)}
	host, port, _ := net.SplitHostPort(x.api)
	cmd := exec.Command(program, "-host", host, "-port", port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	eventually(t, func() error {
		response, err := http.Get("http://" + x.api + "/version")
		if err == nil {
			response.Body.Close()
		}
		return err
	})
	return x
}

type attributes map[string]any

// do makes a request to toxiproxy's API.
func (x *toxiproxy) do(method, path string, body any) (answer map[string]any) {
	x.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		x.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://"+x.api+path, bytes.NewReader(text))
	if err != nil {
		x.t.Fatal(err)
	}
	request.Close = true // toxiproxy ends connections that were idle for 10 s, just when one is used again
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		x.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ = io.ReadAll(response.Body)
	if response.StatusCode >= 300 {
		x.t.Fatalf("toxiproxy: %s %s: %s: %s", method, path, response.Status, text)
	}
	json.Unmarshal(text, &answer)
	return answer
}

// A toxicLink is a listener of toxiproxy, and what it leads to.
type toxicLink struct {
	x          *toxiproxy
	name, addr string
}

func (x *toxiproxy) link(upstream string) *toxicLink {
	x.t.Helper()
	name := fmt.Sprintf("link%d", x.count.Add(1))
	answer := x.do("POST", "/proxies", attributes{"name": name, "listen": "127.0.0.1:0", "upstream": upstream, "enabled": true})
	return &toxicLink{x, name, answer["listen"].(string)}
}

// add puts a toxic on the bytes in one direction, "upstream" or "downstream", or both; toxicity is the share of
// connections that it is for.
func (l *toxicLink) add(kind, stream string, toxicity float64, a attributes) *toxicLink {
	l.x.t.Helper()
	streams := []string{stream}
	if stream == "both" {
		streams = []string{"upstream", "downstream"}
	}
	for _, s := range streams {
		l.x.do("POST", "/proxies/"+l.name+"/toxics", attributes{"name": kind + "-" + s, "type": kind, "stream": s, "toxicity": toxicity, "attributes": a})
	}
	return l
}

// remove takes a toxic off again.
func (l *toxicLink) remove(kind, stream string) {
	l.x.t.Helper()
	l.x.do("DELETE", "/proxies/"+l.name+"/toxics/"+kind+"-"+stream, nil)
}

// enable lets connections through again, or ends all and refuses new ones.
func (l *toxicLink) enable(on bool) {
	l.x.t.Helper()
	l.x.do("POST", "/proxies/"+l.name, attributes{"enabled": on})
}

// heal takes all toxics off all links.
func (x *toxiproxy) heal() {
	x.t.Helper()
	x.do("POST", "/reset", nil)
}

// Clients behind all kinds of bad networks at once.
func TestToxicClients(t *testing.T) {
	t.Parallel()
	x := startToxiproxy(t)
	b := startBackend(t, listenLoopback(t), 200*time.Millisecond)
	p := startProxy(t, b.addr, events, settings{"session.grace": "30s", "heartbeat.interval": "1s"})
	reset, flapping, hole := x.link(p.addr), x.link(p.addr), x.link(p.addr)
	links := []*toxicLink{
		x.link(p.addr),
		x.link(p.addr).add("latency", "both", 1, attributes{"latency": 100, "jitter": 100}),
		x.link(p.addr).add("slicer", "both", 1, attributes{"average_size": 16, "size_variation": 8, "delay": 10}),
		x.link(p.addr).add("bandwidth", "both", 1, attributes{"rate": 20}),
		x.link(p.addr).add("slow_close", "both", 1, attributes{"delay": 1500}),
		x.link(p.addr).add("limit_data", "downstream", 1, attributes{"bytes": 20_000}), // mostly within a frame
		x.link(p.addr).add("limit_data", "upstream", 1, attributes{"bytes": 10_000}),
		reset, flapping, hole,
	}
	c := gather(t, b, 17*len(links), dialer(b.addr), func(i int, m *member) {
		m.dial, m.pace, m.patient = dialer(links[i%len(links)].addr), 200*time.Millisecond, 2*time.Second
	})
	for round := range 6 {
		flapping.enable(round%2 == 1)
		if round%3 == 1 {
			reset.add("reset_peer", "downstream", 1, attributes{"timeout": 100})
			hole.add("timeout", "downstream", 0.8, attributes{"timeout": 0})
		} else if round%3 == 2 {
			reset.remove("reset_peer", "downstream")
			hole.remove("timeout", "downstream")
		}
		for i := range 20 {
			c.members[(round*37+i*11)%len(c.members)].cut(cuts[i%len(cuts)])
		}
		time.Sleep(time.Second)
	}
	x.heal()
	c.finish(t, p)
	legs := map[int]int{}
	for i, m := range c.members {
		legs[i%len(links)] += m.legs
	}
	t.Logf("connections by link: %v", legs)
	for i := 5; i < len(links); i++ {
		if legs[i] < 2*17 {
			t.Errorf("the clients behind link %d made %d connections: they were hardly hurt", i, legs[i])
		}
	}
}

// A bad network between proxy and backend: slow and in slices at first, which nobody notices; then cut, which ends
// the sessions, and the clients begin anew.
func TestToxicUpstream(t *testing.T) {
	t.Parallel()
	x := startToxiproxy(t)
	b := startBackend(t, listenLoopback(t), 200*time.Millisecond)
	link := x.link(b.addr).
		add("latency", "both", 1, attributes{"latency": 20, "jitter": 20}).
		add("slicer", "both", 1, attributes{"average_size": 100, "size_variation": 50, "delay": 10})
	p := startProxy(t, link.addr, events, settings{"session.grace": "30s"})
	c := gather(t, b, 60, dialer(b.addr), func(i int, m *member) {
		m.dial, m.pace, m.patient = dialer(p.addr), 200*time.Millisecond, 0
	})
	for i := range 60 {
		c.members[i*7%60].cut(cuts[i%len(cuts)])
		time.Sleep(30 * time.Millisecond)
	}
	c.settle(t)
	for _, m := range c.members {
		m.mu.Lock()
		if m.sessions > 1 {
			t.Errorf("%s has lost its session to a slow network", m.name)
		}
		m.lossy = true
		m.mu.Unlock()
	}
	link.enable(false)
	p.waitMetric(t, `tideover_sessions_left_total{reason="upstream_lost"}`, is(60))
	p.waitMetric(t, `tideover_handshakes_refused_total{reason="circuit_open"}`, atLeast(60))
	link.enable(true)
	c.settle(t)
	b.hurt = true
	c.finish(t, p)
	if n := p.warnings("upstream"); n != 1 {
		t.Errorf("one outage of the upstream made %d warnings, want 1:\n%s", n, p.log.String())
	}
}
