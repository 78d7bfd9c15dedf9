package faults

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

const many = 200

// quick finds half-open connections soon.
var quick = settings{"heartbeat.interval": "500ms", "heartbeat.max_missed": 2}

// onNetwork starts a backend, the proxy and a crowd on three hosts.
func onNetwork(t *testing.T, edit func(n *network, m *member), extras ...settings) (*network, *proxy, *crowd) {
	t.Helper()
	n := newNetwork(t)
	b := startBackend(t, n.backend.listen(backendAddr), 300*time.Millisecond)
	p := n.start(b, append([]settings{events}, extras...)...)
	c := gather(t, b, many, n.beside, func(i int, m *member) {
		m.dial, m.pace = n.from(clientAddr), 300*time.Millisecond
		if edit != nil {
			edit(n, m)
		}
	})
	return n, p, c
}

// settle waits until every client has been answered once more.
func (c *crowd) settle(t *testing.T) {
	t.Helper()
	before := make([]int, len(c.members))
	for i, m := range c.members {
		m.mu.Lock()
		before[i] = m.answered
		m.mu.Unlock()
	}
	eventually(t, func() error {
		for i, m := range c.members {
			m.mu.Lock()
			answered := m.answered
			m.mu.Unlock()
			if answered <= before[i] {
				return fmt.Errorf("%s gets no answers any more", m.name)
			}
		}
		return nil
	})
}

// Packets are lost, up to one in five, on both cables and both ways, while clients connect, talk and are cut off.
func TestPacketLoss(t *testing.T) {
	t.Parallel()
	n, p, c := onNetwork(t, nil, quick)
	c.settle(t)
	for _, percent := range []int{5, 10, 20} {
		n.lossy(percent)
		for i := range 40 {
			c.members[i*5%many].cut(cuts[i%len(cuts)])
			time.Sleep(50 * time.Millisecond)
		}
	}
	n.lossy(5)
	c.settle(t)
	n.heal()
	c.finish(t, p)
	for _, h := range []*host{n.clients, n.proxy, n.backend} {
		if sent := h.retransmitted(); sent < many {
			t.Errorf("%s had to send %d segments again: hardly anything was lost", h.name, sent)
		}
	}
}

// Nothing gets through for longer than heartbeats take to notice, but shorter than the grace: in both
// directions, only from the clients, only to the clients. Nothing is lost, and nobody leaves.
func TestBlackHoleWithinTheGrace(t *testing.T) {
	t.Parallel()
	n, p, c := onNetwork(t, func(n *network, m *member) { m.patient = time.Second }, quick)
	c.settle(t)
	for _, hole := range []struct {
		name                string
		fromClients, toThem []string
	}{
		{"both ways", []string{"iifname c drop"}, []string{"iifname c drop"}},
		{"from the clients", []string{"iifname c drop"}, nil},
		{"to the clients", nil, []string{"iifname c drop"}},
	} {
		n.proxy.drop(hole.fromClients...)
		n.clients.drop(hole.toThem...)
		time.Sleep(2500 * time.Millisecond)
		n.heal()
		c.settle(t)
	}
	if all := p.mustMetrics(t); all["tideover_resumes_total"] < many/2 {
		t.Errorf("only %v resumes: the proxy hardly noticed", all["tideover_resumes_total"])
	}
	c.finish(t, p)
}

// Nothing gets through for longer than the grace: every session leaves, its peers hear away and left, its upstream is
// closed with 1001, and the clients begin anew once they can.
func TestBlackHoleBeyondTheGrace(t *testing.T) {
	t.Parallel()
	n, p, c := onNetwork(t, func(n *network, m *member) { m.patient, m.lossy = time.Second, true }, quick, settings{"session.grace": "1s"})
	c.settle(t)
	n.proxy.drop("iifname c drop")
	n.clients.drop("iifname c drop")
	p.waitMetric(t, `tideover_sessions_left_total{reason="grace_over"}`, atLeast(many))
	for _, state := range []string{"attached", "away"} {
		p.waitMetric(t, `tideover_sessions{state="`+state+`"}`, is(0))
	}
	n.heal()
	c.settle(t)
	c.finish(t, p)
	gone := 0
	for _, s := range c.backend.sessions {
		if k := len(s.events); k >= 3 && slices.Equal(s.events[k-2:], []string{"away", "left"}) && s.ended == "closed with 1001" {
			gone++
		}
	}
	if gone < many {
		t.Errorf("%d upstream connections were closed with 1001 after away and left, want %d", gone, many)
	}
}

// Clients change their address, from one moment to the next: the old connections hang, for the proxy as well, which has
// noticed nothing when the clients come back from elsewhere. They take over, and nobody is told anything.
func TestAddressChange(t *testing.T) {
	t.Parallel()
	n, p, c := onNetwork(t, func(n *network, m *member) { m.patient = 2 * time.Second }, settings{"heartbeat.interval": "10m"})
	c.settle(t)
	for _, move := range []struct{ from, to string }{{clientAddr, clientAddr2}, {clientAddr2, clientAddr}} {
		n.proxy.drop("ip saddr " + move.from + " drop")
		n.clients.drop("ip daddr " + move.from + " drop")
		for _, m := range c.members {
			m.mu.Lock()
			m.dial = n.from(move.to)
			m.mu.Unlock()
		}
		c.settle(t)
		n.heal() // and what was on its way from the old address arrives after all
		c.settle(t)
	}
	// On a busy machine a client may lose its patience and hang up, and then comes back to a session that is away.
	// Most have no reason to.
	all := p.mustMetrics(t)
	taken, resumed := all["tideover_supersedes_total"], all["tideover_resumes_total"]
	if taken < many || taken+resumed < 2*many {
		t.Errorf("%v clients took over from themselves and %v came back, want %d at least", taken, resumed, 2*many)
	}
	c.finish(t, p)
	quiet := 0
	for _, s := range c.backend.sessions {
		if slices.Equal(s.events, []string{"joined", "left"}) {
			quiet++
		}
	}
	if quiet < many/2 {
		t.Errorf("of %d clients that changed their address, the peers of only %d were told nothing", many, quiet)
	}
}

// Every connection is reset at once, by the clients' system and by the proxy's, again and again.
func TestResetStorm(t *testing.T) {
	t.Parallel()
	n, p, c := onNetwork(t, nil)
	c.settle(t)
	for i := range 6 {
		if i%2 == 0 {
			n.proxy.resetAll(clientAddr)
		} else {
			n.clients.resetAll("10.77.0.1")
		}
		time.Sleep(time.Duration(i) * 100 * time.Millisecond)
	}
	c.settle(t)
	if all := p.mustMetrics(t); all["tideover_resumes_total"] < many {
		t.Errorf("only %v resumes after 6 × %d resets", all["tideover_resumes_total"], many)
	}
	c.finish(t, p)
}
