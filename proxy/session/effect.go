package session

import "github.com/tideover/tideover/proxy/dedup"

// Kind says what an effect asks of the shell.
type Kind uint8

// The kinds of effects.
const (
	Send   Kind = iota // write Data to Leg; if the leg then has a backlog, call Session.Blocked
	Close              // let Leg finish: write out, shut down, close
	Abort              // close Leg at once
	Pause              // stop reading Leg
	Resume             // read Leg again
	Emit               // Event happened: send its message upstream, tell the other sinks
	Mark               // ID has been handed to the upstream leg: it counts as seen from now on
	Probe              // tell, with Session.Probed, how much the peer of Leg has acknowledged
	Forget             // nobody can find this session any more: take it out of the registry
)

func (k Kind) String() string {
	return [...]string{"send", "close", "abort", "pause", "resume", "emit", "mark", "probe", "forget"}[k]
}

// Event is what a session's peers may be told.
type Event uint8

// The events, in the order of a session's life.
const (
	Joined Event = iota
	Away
	Reconnected
	Left
)

func (e Event) String() string {
	return [...]string{"joined", "away", "reconnected", "left"}[e]
}

// An Effect is one thing for the shell to do. Data is valid until Session.Release.
type Effect struct {
	Kind  Kind
	Event Event
	Leg   Leg
	Data  []byte
	ID    dedup.ID
}

// Effects collects what one input leads to, in the order in which it must be done. It is the
// shell's, one for each goroutine that runs sessions, and used for one input at a time.
type Effects struct {
	List []Effect

	// Pressure is set by the shell while all buffers together are over their limit.
	Pressure bool

	marks   []dedup.ID // ids of this input, not yet executed by the shell
	scratch []byte     // small frames of this input
	plain   []byte     // unmasked payloads, while they are inspected
	spent   [][]byte   // buffers to give back once List has been executed
}

// add appends an effect, to be filled in where it lies: one that is made elsewhere, in small pieces, and copied in large ones waits in
// between until the processor has written down everything before it, the message of a cold session for one.
func (fx *Effects) add(k Kind, leg Leg) *Effect {
	n := len(fx.List)
	if n == cap(fx.List) {
		fx.List = append(fx.List, Effect{})
	} else {
		fx.List = fx.List[:n+1] // Release has cleared it
	}
	e := &fx.List[n]
	e.Kind, e.Leg = k, leg
	return e
}

func (fx *Effects) do(k Kind, leg Leg) { fx.add(k, leg) }
func (fx *Effects) emit(ev Event)      { fx.add(Emit, Upstream).Event = ev }
func (fx *Effects) send(leg Leg, data []byte) {
	if len(data) > 0 {
		fx.add(Send, leg).Data = data
	}
}

// sendNew sends what build appends, kept in the scratch space.
func (fx *Effects) sendNew(leg Leg, build func(dst []byte) []byte) {
	at := len(fx.scratch)
	fx.scratch = build(fx.scratch)
	fx.send(leg, fx.scratch[at:len(fx.scratch):len(fx.scratch)])
}

// sendBox sends what is in x, if anything, and empties x.
func (fx *Effects) sendBox(leg Leg, x *box) []byte {
	b := x.bytes()
	x.p = nil
	fx.send(leg, b)
	return b
}

// copied returns a copy of b in the scratch space.
func (fx *Effects) copied(b []byte) []byte {
	at := len(fx.scratch)
	fx.scratch = append(fx.scratch, b...)
	return fx.scratch[at:len(fx.scratch):len(fx.scratch)]
}

func (fx *Effects) marked(id dedup.ID) bool {
	for i := range fx.marks {
		if fx.marks[i] == id {
			return true
		}
	}
	return false
}

// keepScratch bounds what an Effects keeps between inputs, in bytes.
const keepScratch = 64 << 10

// Release ends an input: the effects have been executed and their data is not used any
// more.
func (fx *Effects) Release() {
	clear(fx.List)
	fx.List, fx.marks = fx.List[:0], fx.marks[:0]
	for i, b := range fx.spent {
		putBuffer(b)
		fx.spent[i] = nil
	}
	fx.spent = fx.spent[:0]
	if cap(fx.scratch) > keepScratch {
		fx.scratch = nil
	}
	if cap(fx.plain) > keepScratch {
		fx.plain = nil
	}
	fx.scratch, fx.plain = fx.scratch[:0], fx.plain[:0]
}
