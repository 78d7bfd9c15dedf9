package demo

// ledgerOpen is how many of the latest messages a ledger keeps one by one.
// Older ones are settled: they only count in the totals.
const ledgerOpen = 500

// ledger keeps the books of one direction in one column: what was sent, in
// order, and how often each of it was seen at the other end.
//
// A message counts as lost only once it has been overtaken, that is, once a
// message sent after it was seen. Until then it is still waiting. A message
// that comes after all, late, is no longer lost.
//
// Not safe for concurrent use.
type ledger struct {
	settled counts
	open    []entry
	index   map[string]int // id → place in open
	early   map[string]int // seen before it was known to be sent
}

type entry struct {
	id   string
	seen int
}

// counts always add up: Sent = Once + Twice + Lost + Waiting.
type counts struct {
	Sent    int `json:"sent"`
	Once    int `json:"once"`
	Twice   int `json:"twice"` // twice or more often
	Lost    int `json:"lost"`
	Waiting int `json:"waiting"`
}

func newLedger() *ledger {
	return &ledger{index: make(map[string]int), early: make(map[string]int)}
}

// sent enters a message. A repeated id is the same message, sent again.
func (l *ledger) sent(id string) {
	if _, known := l.index[id]; known {
		return
	}
	l.index[id] = len(l.open)
	l.open = append(l.open, entry{id: id, seen: l.early[id]})
	delete(l.early, id)
	if len(l.open) > 2*ledgerOpen {
		l.settle(len(l.open) - ledgerOpen)
	}
}

// seen notes that a message was seen at the other end, once more.
func (l *ledger) seen(id string) {
	if i, known := l.index[id]; known {
		l.open[i].seen++
		return
	}
	if len(l.early) >= ledgerOpen {
		clear(l.early) // nobody owns up to these; a page can't fill the memory
	}
	l.early[id]++
}

// counts adds up what is known now.
func (l *ledger) counts() counts {
	sum := l.settled
	for _, mark := range l.marks(len(l.open)) {
		sum.add(byte(mark))
	}
	return sum
}

// The marks of a tape, one for each message.
const (
	markOnce    = 'o'
	markTwice   = 't'
	markLost    = 'l'
	markWaiting = 'w'
)

// marks tells the fate of the latest messages, at most last of them, oldest
// first.
func (l *ledger) marks(last int) string {
	first := max(len(l.open)-last, 0)
	marks := make([]byte, len(l.open)-first)
	overtaken := false
	for i := len(l.open) - 1; i >= first; i-- {
		mark := byte(markWaiting)
		switch {
		case l.open[i].seen > 1:
			mark = markTwice
		case l.open[i].seen == 1:
			mark = markOnce
		case overtaken:
			mark = markLost
		}
		overtaken = overtaken || l.open[i].seen > 0
		marks[i-first] = mark
	}
	return string(marks)
}

// settle closes the books on the oldest n messages.
func (l *ledger) settle(n int) {
	for i, mark := range l.marks(len(l.open))[:n] {
		l.settled.add(byte(mark))
		delete(l.index, l.open[i].id)
	}
	l.open = append([]entry(nil), l.open[n:]...)
	for i := range l.open {
		l.index[l.open[i].id] = i
	}
}

func (c *counts) add(mark byte) {
	c.Sent++
	switch mark {
	case markOnce:
		c.Once++
	case markTwice:
		c.Twice++
	case markLost:
		c.Lost++
	case markWaiting:
		c.Waiting++
	}
}
