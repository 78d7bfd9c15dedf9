package engine

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// recordOverhead is what TLS adds to some bytes, at the most.
const recordOverhead = 100

func testWritableOnce(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.onWritable = func(l Leg) {
		if held := l.Stat().Held; held != 0 {
			t.Errorf("Writable while %d bytes are held", held)
		}
	}
	r.leg.Resume()
	for episode := 1; episode <= 3; episode++ {
		big := pattern(0, huge)
		first := r.leg.Write([][]byte{big[:huge/2], big[huge/2:]})
		if first <= 0 || first > huge {
			t.Fatalf("Write of %d bytes to a peer that does not read left a backlog of %d", huge, first)
		}
		if second := r.leg.Write([][]byte{pattern(huge, 1000)}); second < 1000 || second > first+1000+recordOverhead {
			t.Fatalf("the backlog went from %d to %d by a Write of 1000", first, second)
		}
		send(t, r.peer, []byte("!")) // what is read meanwhile changes nothing
		eventually(t, "the peer's byte is handed over", func() bool { return r.reads() == episode })
		never(t, "Writable while the peer does not read", func() bool { _, w, _ := r.count(); return w >= episode })
		wantPattern(t, "a backlog", read(t, r.peer, huge+1000), huge+1000)
		eventually(t, "Writable is called", func() bool { _, w, _ := r.count(); return w >= episode })
		never(t, "Writable twice in one episode", func() bool { _, w, _ := r.count(); return w > episode })
	}
}

func testBuffersReusable(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.leg.Resume()
	b := make([]byte, 64<<10)
	for off := 0; off < huge; off += len(b) {
		copy(b, pattern(off, len(b)))
		r.leg.Write([][]byte{b})
		clear(b)
	}
	wantPattern(t, "bytes whose buffer was used again", read(t, r.peer, huge), huge)
}

func testManyBuffers(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.leg.Resume()
	total := 0
	var writes [][][]byte
	for bufs := range 40 { // also a Write of nothing, and empty buffers
		var w [][]byte
		for i := range bufs {
			size := []int{0, 1, 100, 5000, 70_000}[(i*i+bufs)%5]
			w = append(w, pattern(total, size))
			total += size
		}
		writes = append(writes, w)
	}
	for _, await := range []bool{true, false} { // each to a socket that is ready; all onto a backlog
		go func() {
			for _, w := range writes {
				r.leg.Write(w)
				for await && r.leg.Write([][]byte{nil}) > 0 && !r.isLost() {
					time.Sleep(100 * time.Microsecond)
				}
			}
		}()
		wantPattern(t, "many buffers", read(t, r.peer, total), total)
		eventually(t, "the backlog is written", func() bool { return r.leg.Write(nil) == 0 })
	}
}

func testConcurrentWrites(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	r.leg.Resume()
	const records = 400
	for id := range byte(3) {
		go func() {
			for seq := range records {
				size := seq * 37 % 3000
				head := []byte{id, byte(seq >> 8), byte(seq), byte(size >> 8), byte(size)}
				body := bytes.Repeat([]byte{id + 'A'}, size)
				r.leg.Write([][]byte{head, body[:size/2], body[size/2:]})
			}
		}()
	}
	var next [3]int
	for range 3 * records {
		head := read(t, r.peer, 5)
		id, seq, size := head[0], int(head[1])<<8|int(head[2]), int(head[3])<<8|int(head[4])
		if id > 2 || seq != next[id] || size != seq*37%3000 {
			t.Fatalf("a record is torn or out of order: writer %d, number %d of size %d, want number %d", id, seq, size, next[min(id, 2)])
		}
		next[id]++
		if body := read(t, r.peer, size); !bytes.Equal(body, bytes.Repeat([]byte{id + 'A'}, size)) {
			t.Fatalf("writer %d's record %d is torn", id, seq)
		}
	}
}

func testNoOverlap(t *testing.T, n network) {
	r := n.rig(t, Options{}, "")
	hold := make(chan struct{})
	var inWritable, inData atomic.Bool
	r.onWritable = func(Leg) { inWritable.Store(true); <-hold }
	r.onData = func(l Leg, b []byte) int {
		inData.Store(true)
		if b[0] == 'h' {
			<-hold
		}
		r.record(b)
		return len(b)
	}
	r.leg.Resume()

	// Data is due while Writable runs.
	if r.leg.Write([][]byte{make([]byte, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	read(t, r.peer, huge)
	eventually(t, "Writable runs", inWritable.Load)
	send(t, r.peer, []byte("x"))
	never(t, "Data while Writable runs", inData.Load)
	hold <- struct{}{}
	eventually(t, "Data comes after Writable", func() bool { return r.received() == "x" })
	send(t, r.peer, []byte("y"))
	eventually(t, "reading goes on", func() bool { return r.received() == "xy" })

	// Writable and Lost are due while Data runs.
	inWritable.Store(false)
	inData.Store(false)
	send(t, r.peer, []byte("h"))
	eventually(t, "Data runs", inData.Load)
	if r.leg.Write([][]byte{make([]byte, huge)}) == 0 {
		t.Fatal("no backlog")
	}
	backlog := make(chan struct{})
	go func() { // an engine may write no backlog while it is held up in a call
		defer close(backlog)
		_, _ = io.CopyN(io.Discard, r.peer, huge)
	}()
	never(t, "Writable while Data runs", inWritable.Load)
	hold <- struct{}{}
	eventually(t, "Writable comes after Data", inWritable.Load)
	<-backlog
	r.leg.Close(false)
	never(t, "Lost while Writable runs", r.isLost)
	hold <- struct{}{}
	r.loss()
}
