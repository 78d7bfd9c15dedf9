package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tideover/tideover/config"
)

// pemPause is the shortest time between two looks at the same files.
const pemPause = time.Second

// A pemFiles is what some files with certificates and keys mean, made anew when they change.
//
// The files are read on demand, by the handshakes that need them, once in pemPause at the most,
// and compared by content. That is a few reads of some kilobytes a second at worst, and there is
// nothing it can miss: watching through the system would need a goroutine and a descriptor,
// does not work on every file system, and has to know all the ways in which files are
// replaced (Kubernetes swaps a symlink two folders up). It is safe for concurrent use.
type pemFiles[T any] struct {
	paths []string
	parse func(texts [][]byte) (*T, error)
	// tell logs what is used from now on, or why the old one stays.
	tell func(now *T, err error)

	current atomic.Pointer[T]

	mu    sync.Mutex // held while looking
	next  time.Time  // of the next look
	tried [sha256.Size]byte
	fault string // the last one told
}

// openPEM reads files that must be good now.
func openPEM[T any](paths []string, parse func([][]byte) (*T, error), tell func(*T, error)) (*pemFiles[T], error) {
	f := &pemFiles[T]{paths: paths, parse: parse, tell: tell, next: time.Now().Add(pemPause)}
	texts, sum, err := f.read()
	if err != nil {
		return nil, err
	}
	now, err := parse(texts)
	if err != nil {
		return nil, err
	}
	f.tried = sum
	f.current.Store(now)
	return f, nil
}

// get returns what the files mean. It may be a little old: one caller at a time looks, and the
// others don't wait for that.
func (f *pemFiles[T]) get() *T {
	if f.mu.TryLock() {
		defer f.mu.Unlock()
		if now := time.Now(); !now.Before(f.next) {
			f.look()
			f.next = now.Add(pemPause)
		}
	}
	return f.current.Load()
}

// look tries what the files hold, if it is new. Half of a change is no fault to speak of twice:
// each fault is told once.
func (f *pemFiles[T]) look() {
	texts, sum, err := f.read()
	if err == nil {
		if sum == f.tried {
			return
		}
		var now *T
		if now, err = f.parse(texts); err == nil {
			f.tried, f.fault = sum, ""
			f.current.Store(now)
			f.tell(now, nil)
			return
		}
	}
	f.tried = [sha256.Size]byte{} // so that the same as before the fault is tried, too
	if text := err.Error(); text != f.fault {
		f.fault = text
		f.tell(nil, err)
	}
}

func (f *pemFiles[T]) read() (texts [][]byte, sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, path := range f.paths {
		text, err := config.ReadPEM(path)
		if err != nil {
			return nil, sum, err
		}
		texts = append(texts, text)
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(text))))
		h.Write(text)
	}
	return texts, [sha256.Size]byte(h.Sum(nil)), nil
}
