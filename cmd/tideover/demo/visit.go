package demo

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	visitor    = "You"                  // the name under which the page's own user chats
	tapeLength = 60                     // messages on the page's tapes
	pullLag    = 300 * time.Millisecond // see network.lag
)

// peerNames are the simulated users of every room. The first one is the
// witness: what the others see of the visitor is what it sees.
var peerNames = []string{"Ann", "Ben", "Cleo"}

// lines are what the peers talk about, in turn.
var lines = []string{
	"Morning! Is everybody on the train already?",
	"Just got a seat. Window, even.",
	"I'm two stops behind you.",
	"Who has the tickets for tonight?",
	"Me. Row 12, all three of us.",
	"Four! You forgot somebody.",
	"Ah. Four, of course.",
	"Next tunnel in a minute, by the way.",
	"I never lose signal in that one.",
	"I always do.",
	"The doors open at half past seven.",
	"Then let's meet at seven at the fountain.",
	"Seven is fine.",
	"Has anyone heard the support act?",
	"Only one song. Quite good.",
	"Somebody please bring an umbrella.",
	"I've got the big one.",
	"Then nothing can happen.",
}

// column is one way to the backend, shown as one chat on the page. A further
// way is a further column in [Run]; nothing else knows how many there are.
type column struct {
	ID    string   `json:"id"`
	Title string   `json:"title"`
	Hops  []string `json:"hops"` // what a message passes on its way
	Note  string   `json:"note"` // what this way is worth

	// addr is the TCP address that serves this column: its chat application
	// and its socket, to peers at once, to the visitor across the network.
	addr   string
	client bool // the proxy there puts the browser client into pages
}

// visit is one open page: rooms, peers, books and a network of its own, so
// that two open pages do not disturb each other.
type visit struct {
	id      string
	log     *zap.Logger
	network *network
	views   []*view

	talking sync.WaitGroup
}

// view is one column of one visit.
type view struct {
	column
	peers []*peer

	mu      sync.Mutex
	joined  bool    // the witness has seen the visitor join: from now on all is for both to see
	toYou   *ledger // said by the peers → shown on the page
	fromYou *ledger // said by the visitor → seen by the witness
	people  []person
	noise   noise
}

// person is a user as the witness sees it.
type person struct {
	Name  string        `json:"name"`
	State presenceState `json:"state"`
}

type presenceState string

const (
	presenceOnline presenceState = "online"
	presenceAway   presenceState = "away"
	presenceLeft   presenceState = "left"
)

// noise counts what the others were told about the visitor after it had
// joined for the first time.
type noise struct {
	Left        int `json:"left"`
	Joined      int `json:"joined"`
	Away        int `json:"away"`
	Reconnected int `json:"reconnected"`
}

// snapshot is all that the page needs to draw itself.
type snapshot struct {
	Network netState       `json:"network"`
	Cuts    int            `json:"cuts"`
	Columns []viewSnapshot `json:"columns"`
}

type viewSnapshot struct {
	ID      string    `json:"id"`
	People  []person  `json:"people"`
	Noise   noise     `json:"noise"`
	ToYou   direction `json:"to_you"`
	FromYou direction `json:"from_you"`
}

type direction struct {
	counts
	Tape string `json:"tape"` // the latest messages, one mark each, see ledger.marks
}

// newVisit lets the peers join their rooms and start to talk. They go on until
// close, which must be called also when ctx is done.
func newVisit(ctx context.Context, id string, columns []column, log *zap.Logger) (*visit, error) {
	v := &visit{id: id, log: log, network: newNetwork(pullLag)}
	for _, c := range columns {
		w := &view{column: c, toYou: newLedger(), fromYou: newLedger()}
		v.views = append(v.views, w)
		for i, name := range peerNames {
			heard := func(chatMessage) {}
			if i == 0 {
				heard = w.witness
			}
			p, err := newPeer(ctx, c.addr, v.room(c), name, v.clientID(name), heard)
			if err != nil {
				v.close()
				return nil, err
			}
			w.peers = append(w.peers, p)
		}
	}
	v.talking.Go(func() { v.talk(ctx) })
	return v, nil
}

// close ends the visit and waits for all of it. The context given to newVisit
// must be done, or the peers go on talking.
func (v *visit) close() {
	v.talking.Wait()
	v.network.close()
	for _, w := range v.views {
		for _, p := range w.peers {
			p.close()
		}
	}
}

func (v *visit) room(c column) string        { return v.id + "-" + c.ID }
func (v *visit) clientID(name string) string { return v.id + "-" + name }

func (v *visit) view(id string) (*view, bool) {
	for _, w := range v.views {
		if w.ID == id {
			return w, true
		}
	}
	return nil, false
}

// talk says about one line a second, the same in all columns, peer by peer.
func (v *visit) talk(ctx context.Context) {
	for n := 0; ; n++ {
		pause := 800*time.Millisecond + rand.N(400*time.Millisecond)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		for _, w := range v.views {
			if err := w.say(n, lines[n%len(lines)]); err != nil && ctx.Err() == nil {
				v.log.Warn("a simulated user of the demo can't talk any more; reload the page",
					zap.String("column", w.ID), zap.Error(err))
				return
			}
		}
	}
}

// say lets the peer whose turn it is say the n-th line, counted from 0.
func (w *view) say(n int, text string) error {
	speaker := w.peers[n%len(w.peers)]
	id := fmt.Sprintf("%s-%d", speaker.name, n+1)
	w.mu.Lock()
	audience := w.joined // asked before sending: what's sent to a visitor in the room must be shown
	w.mu.Unlock()
	err := speaker.say(chatMessage{Type: "message", Username: speaker.name, ID: id, Number: n + 1, Text: text})
	if err != nil {
		return fmt.Errorf("let %s say line %d: %w", speaker.name, n+1, err)
	}
	if audience {
		w.mu.Lock()
		w.toYou.sent(id)
		w.mu.Unlock()
	}
	return nil
}

// witness takes what the first peer hears.
func (w *view) witness(m chatMessage) {
	w.mu.Lock()
	defer w.mu.Unlock()
	you := m.Username == visitor
	switch m.Type {
	case "message":
		if you {
			w.fromYou.seen(m.ID)
		}
	case "user_joined":
		if you && w.joined {
			w.noise.Joined++
		}
		w.joined = w.joined || you
		w.present(m.Username, presenceOnline)
	case "user_left":
		if you {
			w.noise.Left++
		}
		w.present(m.Username, presenceLeft)
	case "user_away":
		if you {
			w.noise.Away++
		}
		w.present(m.Username, presenceAway)
	case "user_reconnected":
		if you {
			w.noise.Reconnected++
		}
		w.present(m.Username, presenceOnline)
	}
}

func (w *view) present(name string, state presenceState) {
	for i := range w.people {
		if w.people[i].Name == name {
			w.people[i].State = state
			return
		}
	}
	w.people = append(w.people, person{Name: name, State: state})
}

// report enters what the page says of itself: ids that it sent, and ids that
// it has put on the screen.
func (w *view) report(sent, shown []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, id := range sent {
		w.fromYou.sent(id)
	}
	for _, id := range shown {
		w.toYou.seen(id)
	}
}

func (v *visit) snapshot() snapshot {
	state, cuts := v.network.now()
	s := snapshot{Network: state, Cuts: cuts}
	for _, w := range v.views {
		s.Columns = append(s.Columns, w.snapshot())
	}
	return s
}

func (w *view) snapshot() viewSnapshot {
	w.mu.Lock()
	defer w.mu.Unlock()
	return viewSnapshot{
		ID:      w.ID,
		People:  append([]person(nil), w.people...),
		Noise:   w.noise,
		ToYou:   direction{w.toYou.counts(), w.toYou.marks(tapeLength)},
		FromYou: direction{w.fromYou.counts(), w.fromYou.marks(tapeLength)},
	}
}
