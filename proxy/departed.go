package proxy

import (
	"crypto/subtle"
	"strconv"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxDeparted bounds how many sessions are remembered after their end: some 2 MiB of memory.
const maxDeparted = 10_000

// departed remembers how many messages of their clients the latest sessions of tideover.v1 had
// accepted. A client that comes too late, and begins anew, then sends only those again that never were:
// its last acknowledgement may have got lost with its connection. Its lock is a leaf.
type departed struct {
	mu       sync.Mutex
	sessions *simplelru.LRU[sessionID, departure]
}

// A departure is what is left of a session.
type departure struct {
	tokens   tokens
	bind     bindDigest
	received uint64
}

func newDeparted() *departed {
	// The only error is a size below 1.
	sessions, err := simplelru.NewLRU[sessionID, departure](maxDeparted, nil)
	if err != nil {
		panic("remember departed sessions: " + err.Error())
	}
	return &departed{sessions: sessions}
}

func (d *departed) add(id sessionID, last departure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions.Add(id, last)
}

// reason is that of the Close for a client whose token can't be resumed: received=N if the token and the
// bind values are those of a session that is remembered. To all others it tells nothing.
func (d *departed) reason(c *candidate) string {
	const unknown = "no such session"
	id, presented, ok := readToken(c.offer.Token)
	if !ok {
		return unknown
	}
	d.mu.Lock()
	last, ok := d.sessions.Peek(id)
	d.mu.Unlock()
	if !ok || subtle.ConstantTimeCompare(c.bind[:], last.bind[:]) != 1 || !last.tokens.good(&presented) {
		return unknown
	}
	return "received=" + strconv.FormatUint(last.received, 10)
}
