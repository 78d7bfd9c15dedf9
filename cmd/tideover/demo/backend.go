package demo

import (
	"encoding/json"
	"io"
	"io/fs"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

const (
	maxChatBytes  = 64 << 10         // a chat message longer than this closes its socket
	memberBacklog = 256              // frames a slow reader may fall behind before it is dropped
	memberWrite   = 10 * time.Second // a write that takes longer is a dead socket
)

// backend is the legacy chat: what one has after the last chapter of a
// tutorial. It knows rooms and names (taken from the query as they come),
// keeps no history, and hands whatever JSON it gets to everybody in the room,
// the sender included. Of presence it knows only its sockets: one opens, the
// user joined; one closes, the user left. It has never heard of a proxy.
//
// It serves the chat application too, at "/", next to its socket at "/chat".
type backend struct {
	mux *http.ServeMux

	mu     sync.Mutex
	rooms  map[string]map[*member]struct{}
	closed bool

	members sync.WaitGroup
}

// member is one socket in one room.
type member struct {
	room, username string
	conn           net.Conn
	out            chan []byte // whole frames; closed once the member is out of its room
}

func newBackend(app fs.FS) *backend {
	b := &backend{mux: http.NewServeMux(), rooms: make(map[string]map[*member]struct{})}
	b.mux.HandleFunc("/chat", b.chat)
	b.mux.Handle("/", http.FileServerFS(app))
	return b
}

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) { b.mux.ServeHTTP(w, r) }

// close drops every socket and waits until all of them are gone.
func (b *backend) close() {
	b.mu.Lock()
	b.closed = true
	for _, room := range b.rooms {
		for m := range room {
			m.conn.Close()
		}
	}
	b.mu.Unlock()
	b.members.Wait()
}

// chat is one user's socket, from its handshake to its end.
func (b *backend) chat(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	conn, rw, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return // UpgradeHTTP has answered with the reason
	}
	m := &member{
		room:     query.Get("room"),
		username: query.Get("username"),
		conn:     conn,
		out:      make(chan []byte, memberBacklog),
	}
	if !b.join(m) {
		conn.Close()
		return
	}
	defer b.members.Done()
	go m.write()

	incoming := newReader(rw.Reader, ws.StateServerSide)
	for {
		text, err := readText(incoming, queue{m}, ws.StateServerSide)
		if err != nil {
			break
		}
		b.broadcast(m.room, text)
	}
	b.leave(m)
}

func (b *backend) join(m *member) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.members.Add(1)
	room := b.rooms[m.room]
	if room == nil {
		room = make(map[*member]struct{})
		b.rooms[m.room] = room
	}
	room[m] = struct{}{}
	b.broadcastLocked(m.room, notice("user_joined", m.username))
	return true
}

func (b *backend) leave(m *member) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.rooms[m.room], m)
	if len(b.rooms[m.room]) == 0 {
		delete(b.rooms, m.room)
	}
	close(m.out) // nobody sends any more: broadcasts go to members of a room, under the lock
	b.broadcastLocked(m.room, notice("user_left", m.username))
}

func (b *backend) broadcast(room string, text []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.broadcastLocked(room, text)
}

// broadcastLocked never waits for anybody: who does not keep up is dropped.
func (b *backend) broadcastLocked(room string, text []byte) {
	frame := ws.MustCompileFrame(ws.NewTextFrame(text))
	for m := range b.rooms[room] {
		m.enqueue(frame)
	}
}

func (m *member) enqueue(frame []byte) {
	select {
	case m.out <- frame:
	default:
		m.conn.Close()
	}
}

// write sends what is queued, and closes the socket when the queue ends.
func (m *member) write() {
	defer m.conn.Close()
	for frame := range m.out {
		m.conn.SetWriteDeadline(time.Now().Add(memberWrite))
		if _, err := m.conn.Write(frame); err != nil {
			return
		}
	}
}

// queue lets answers to control frames take the same way as all other frames.
type queue struct{ m *member }

func (q queue) Write(frame []byte) (int, error) {
	q.m.enqueue(append([]byte(nil), frame...))
	return len(frame), nil
}

func notice(kind, username string) []byte {
	text, err := json.Marshal(chatMessage{Type: kind, Username: username})
	if err != nil {
		panic(err) // a struct of strings can be marshalled
	}
	return text
}

// chatMessage is what the demo's clients say to each other. To the backend
// it's just bytes.
type chatMessage struct {
	Type     string `json:"type"`
	Username string `json:"username"`
	ID       string `json:"id,omitempty"`
	Number   int    `json:"number,omitempty"`
	Text     string `json:"text,omitempty"`
}

func newReader(source io.Reader, side ws.State) *wsutil.Reader {
	return &wsutil.Reader{
		Source:         source,
		State:          side,
		CheckUTF8:      true,
		MaxFrameSize:   maxChatBytes,
		MaxMessageSize: maxChatBytes,
	}
}

// readText returns the next text message. Control frames on the way are
// answered on replies, other messages are passed over.
func readText(r *wsutil.Reader, replies io.Writer, side ws.State) ([]byte, error) {
	control := wsutil.ControlFrameHandler(replies, side)
	r.OnIntermediate = control
	for {
		header, err := r.NextFrame()
		if err != nil {
			return nil, err
		}
		switch {
		case header.OpCode.IsControl():
			if err := control(header, r); err != nil {
				return nil, err
			}
		case header.OpCode == ws.OpText:
			return io.ReadAll(r)
		default:
			if err := r.Discard(); err != nil {
				return nil, err
			}
		}
	}
}
