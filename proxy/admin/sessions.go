package admin

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// The states of a Session.
const (
	Attached = "attached"
	Away     = "away"
)

// Session is a snapshot of one session.
type Session struct {
	ID        string
	Key       string        // empty where it is found by token only, or not at all
	State     string        // Attached or Away
	Since     time.Time     // when this state began
	AwayFor   time.Duration // while away
	GraceLeft time.Duration // while away
	Upstream  string        // its address; without query and credentials
	Remote    string        // address of the client, while away of the last one

	WindowMessages    int // kept for the client
	WindowBytes       int
	MessagesUp        uint64 // from the client
	MessagesDown      uint64 // from the upstream
	Replayed          uint64 // messages that resumes handed over
	DuplicatesDropped uint64
	Resumes           uint64
}

// sessionJSON is a Session as the API shows it.
type sessionJSON struct {
	ID                string    `json:"id"`
	Key               string    `json:"key"`
	State             string    `json:"state"`
	Since             time.Time `json:"since"`
	AwayForMS         *int64    `json:"away_for_ms,omitempty"` // while away
	GraceLeftMS       *int64    `json:"grace_left_ms,omitempty"`
	Upstream          string    `json:"upstream"`
	Remote            string    `json:"remote"`
	WindowMessages    int       `json:"window_messages"`
	WindowBytes       int       `json:"window_bytes"`
	MessagesUp        uint64    `json:"messages_up"`
	MessagesDown      uint64    `json:"messages_down"`
	Replayed          uint64    `json:"replayed"`
	DuplicatesDropped uint64    `json:"duplicates_dropped"`
	Resumes           uint64    `json:"resumes"`
}

// MarshalJSON has durations in milliseconds, only while away, and times in UTC.
func (s Session) MarshalJSON() ([]byte, error) {
	out := sessionJSON{
		ID: s.ID, Key: s.Key, State: s.State, Since: s.Since.UTC().Truncate(time.Millisecond),
		Upstream: s.Upstream, Remote: s.Remote, WindowMessages: s.WindowMessages, WindowBytes: s.WindowBytes,
		MessagesUp: s.MessagesUp, MessagesDown: s.MessagesDown, Replayed: s.Replayed,
		DuplicatesDropped: s.DuplicatesDropped, Resumes: s.Resumes,
	}
	if s.State == Away {
		away, left := s.AwayFor.Milliseconds(), max(0, s.GraceLeft.Milliseconds())
		out.AwayForMS, out.GraceLeftMS = &away, &left
	}
	return json.Marshal(out)
}

// defaultLimit is how many sessions one answer lists unless ?limit= says otherwise.
const defaultLimit = 1000

// sessions streams the list, so that a hundred thousand sessions need no memory. What is
// only known at its end stands behind it: "total" counts the sessions that ?state=
// lets through, "cut" says that limit kept some of them out.
func (h *handler) sessions(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	limit := defaultLimit
	if s := query.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 {
			fail(w, http.StatusBadRequest, fmt.Sprintf("limit is %q; want a whole number from 0 on", s))
			return
		}
		limit = n
	}
	state := query.Get("state")
	if state != "" && state != Attached && state != Away {
		fail(w, http.StatusBadRequest, fmt.Sprintf("state is %q; want %s or %s", state, Attached, Away))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	out := bufio.NewWriterSize(w, 32<<10)
	out.WriteString(`{"sessions":[`)
	total := 0
	h.src.Sessions(func(s Session) bool {
		if state != "" && s.State != state {
			return true
		}
		total++
		if total > limit {
			return true
		}
		text, err := json.Marshal(s)
		if err == nil && total > 1 {
			out.WriteByte(',')
		}
		if err == nil {
			_, err = out.Write(text)
		}
		return err == nil // else the client is gone
	})
	fmt.Fprintf(out, `],"total":%d,"cut":%t}`+"\n", total, total > limit)
	_ = out.Flush() // a bufio.Writer keeps its first error; there is nobody to tell
}

func (h *handler) session(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	s, ok := h.src.Session(id)
	if !ok {
		fail(w, http.StatusNotFound, fmt.Sprintf("there is no session %q: it has left, or never was", id))
		return
	}
	answer(w, http.StatusOK, s)
}
