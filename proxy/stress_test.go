package proxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
	"github.com/tideover/tideover/proxy/resume"
)

// Many clients drop, resume and supersede themselves over real sockets, while both sides talk. All
// messages bear numbers, and both ends check them: nothing is lost, nothing out of order, and
// what can be told apart comes once.
func TestManyClientsComeAndGoWhileBothSidesTalk(t *testing.T) {
	const keyed, counted, passing = 12, 8, 2
	lasts := 3 * time.Second
	if testing.Short() {
		lasts = time.Second
	}
	socketStory(t, func(c *config.Config) {
		c.Replay.Overflow = config.OverflowPause
		c.Replay.MaxBytes = 256 << 10
		c.Replay.ReceiptInterval = 5 * time.Millisecond
		c.Heartbeat.Interval, c.Upstream.Heartbeat.Interval = 20*time.Millisecond, 20*time.Millisecond
		c.Heartbeat.MaxMissed, c.Upstream.Heartbeat.MaxMissed = 1000, 1000 // a busy machine is slow, not dead
	}, func(t *testing.T, w *world) {
		until := time.Now().Add(lasts)
		var all sync.WaitGroup
		var travellers []*traveller
		for i := range keyed + counted {
			tr := &traveller{w: w, t: t, name: fmt.Sprint("t", i), counted: i >= keyed, rng: rand.New(rand.NewPCG(uint64(i), 7))}
			travellers = append(travellers, tr)
			all.Go(func() { tr.travel(until) })
		}
		for i := range passing { // clients without identity, whose sessions end with them
			all.Go(func() {
				for n := 0; time.Now().Before(until); n++ {
					c := tryPassing(t, w, fmt.Sprintf("/?who=p%d.%d", i, n))
					if c == nil {
						return
					}
					c.Say("hello")
					if n%2 == 0 {
						c.Drop()
					} else {
						c.Close(ws.StatusGoingAway, "")
						c.WaitEnd()
					}
				}
			})
		}
		all.Wait()
		legs, replayed := 0, w.p.Stats().Replayed
		for _, tr := range travellers {
			tr.check()
			legs += tr.legs
		}
		s := w.p.Stats()
		t.Logf("%d legs, %d resumes, %d supersedes; %d messages up, %d down, %d replayed, %d duplicates dropped",
			legs, s.Resumes, s.Supersedes, s.MessagesUp, s.MessagesDown, replayed, s.DuplicatesDropped)
		if s.Resumes == 0 || s.Supersedes == 0 || replayed == 0 || s.DuplicatesDropped == 0 {
			t.Error("nothing much has happened")
		}
	})
}

func tryPassing(t *testing.T, w *world, target string) *proxytest.Peer {
	conn, err := w.toPublic(t.Context())
	if err != nil {
		t.Errorf("connect: %v", err)
		return nil
	}
	c, answer, err := proxytest.OpenClient(t, conn, proxytest.ClientRequest(target))
	if err != nil || c == nil {
		t.Errorf("handshake for %s: %v, %v", target, answer, err)
	}
	return c
}

// A traveller is a client that loses its connection again and again, and the backend's side of
// its session. One with a key puts ids into its messages and sends the last ones again after a
// drop; one of tideover.v1 knows what to send again.
type traveller struct {
	w       *world
	t       *testing.T
	name    string
	counted bool
	rng     *rand.Rand

	client *proxytest.Peer
	up     *proxytest.Peer
	token  string
	legs   int
	read   int // messages of the current leg that have been looked at
	got    int // the next number expected from the upstream
	said   int // the next number to be sent
	down   int // how many the upstream has said, once talk is over
}

func (tr *traveller) travel(until time.Time) {
	if !tr.connect() {
		return
	}
	for i := 0; tr.up == nil; i++ {
		// The proxy may have its 101 before the backend has noted it: Peer waits.
		if up := tr.w.backend.Peer(i); strings.Contains(up.Request, "="+tr.name+" ") {
			tr.up = up
		}
	}
	talk, theirs := make(chan int, 1), rand.New(rand.NewPCG(tr.rng.Uint64(), 9))
	go func() { talk <- upstreamTalks(tr.up, until, theirs) }()
	for time.Now().Before(until) {
		for range tr.rng.IntN(8) {
			tr.say(tr.said)
			tr.said++
			time.Sleep(time.Duration(tr.rng.IntN(5)) * time.Millisecond)
		}
		tr.look()
		switch tr.rng.IntN(6) {
		case 0: // the next leg supersedes this one, which nobody closes
		case 1:
			tr.client.Close(ws.StatusGoingAway, "")
		case 2:
			tr.client.Conn.Close()
		default:
			tr.client.Drop()
		}
		time.Sleep(time.Duration(tr.rng.IntN(3)) * time.Millisecond)
		if !tr.connect() {
			return
		}
	}
	select {
	case tr.down = <-talk:
	case <-time.After(proxytest.Patience):
		tr.t.Errorf("the upstream of %s can't finish what it says", tr.name)
	}
	tr.up.Wait("all that its client said", func() bool { return len(tr.up.Messages()) >= tr.said })
	tr.client.Wait("all that its upstream said", func() bool { tr.look(); return tr.got >= tr.down })
}

// upstreamTalks sends numbered messages of all sizes and returns how many.
func upstreamTalks(up *proxytest.Peer, until time.Time, rng *rand.Rand) (n int) {
	for time.Now().Before(until) {
		for range rng.IntN(6) {
			size := rng.IntN(1 << rng.IntN(14))
			up.Say(fmt.Sprintf("%d %s", n, strings.Repeat("x", size)))
			n++
		}
		time.Sleep(time.Millisecond)
	}
	return n
}

// connect opens the next leg and says again what may not have been received.
func (tr *traveller) connect() bool {
	target, offer := "/?client_id="+tr.name, []string{}
	if tr.counted {
		target, offer = "/?who="+tr.name, []string{"Sec-WebSocket-Protocol: tideover.v1"}
		if tr.token != "" {
			tr.look() // for the last time at the old leg
			offer[0] += fmt.Sprintf(", tideover.resume.%s.%d", tr.token, tr.got)
		}
	}
	conn, err := tr.w.toPublic(tr.t.Context())
	if err != nil {
		tr.t.Errorf("%s can't connect: %v", tr.name, err)
		return false
	}
	c, answer, err := proxytest.OpenClient(tr.t, conn, proxytest.ClientRequest(target, offer...))
	if err != nil || c == nil || answer.StatusCode != http.StatusSwitchingProtocols {
		tr.t.Errorf("leg %d of %s: %v, %v", tr.legs, tr.name, answer, err)
		return false
	}
	if tr.client != nil && !tr.counted { // what it received before it was superseded is not sent again
		tr.client.WaitEnd()
		tr.look()
	}
	tr.client, tr.read = c, 0
	tr.legs++
	again := 0
	if tr.counted {
		if !c.WaitFor(1) {
			return false
		}
		welcome := counting{c}.welcome(tr.t)
		if welcome.Resumed != (tr.legs > 1) {
			tr.t.Errorf("leg %d of %s: %+v", tr.legs, tr.name, welcome)
		}
		tr.token, again = welcome.Token, int(welcome.Received)
	} else if tr.up != nil {
		again = max(0, len(tr.up.Messages())-3)
	}
	for ; again < tr.said; again++ {
		tr.say(again)
	}
	return true
}

// say sends message n, if the leg still lives.
func (tr *traveller) say(n int) {
	text := strconv.Itoa(n)
	if !tr.counted {
		text = fmt.Sprintf(`{"n":%d,"id":"%s-%d"}`, n, tr.name, n)
	}
	_ = tr.client.Send(tr.client.Frame(ws.OpText, true, text))
}

// look checks the numbers that came on the current leg.
func (tr *traveller) look() {
	for _, m := range tr.client.Messages()[tr.read:] {
		tr.read++
		if strings.HasPrefix(m.Text, "\x1e") {
			continue
		}
		number, _, _ := strings.Cut(m.Text, " ")
		n, err := strconv.Atoi(number)
		if err != nil || n > tr.got || tr.counted && n < tr.got {
			tr.t.Errorf("leg %d of %s got message %q, want %d", tr.legs, tr.name, number, tr.got)
		}
		tr.got = max(tr.got, n+1)
	}
	if tr.counted && tr.rng.IntN(2) == 0 {
		_ = tr.client.Send(tr.client.Frame(ws.OpText, true, string(resume.AppendAck(nil, uint64(tr.got)))))
	}
}

func (tr *traveller) check() {
	if tr.up == nil {
		return
	}
	for i, text := range tr.up.Texts() {
		want := strconv.Itoa(i)
		if !tr.counted {
			want = fmt.Sprintf(`{"n":%d,"id":"%s-%d"}`, i, tr.name, i)
		}
		if text != want {
			tr.t.Errorf("the upstream of %s got %s, want %s", tr.name, text, want)
			break
		}
	}
	if got := len(tr.up.Messages()); got != tr.said {
		tr.t.Errorf("the upstream of %s got %d messages, want %d", tr.name, got, tr.said)
	}
	if tr.got != tr.down || tr.down == 0 {
		tr.t.Errorf("%s got %d messages, want %d", tr.name, tr.got, tr.down)
	}
}
