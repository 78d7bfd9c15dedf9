//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strconv"
)

// A pattern makes the payloads of one run, and knows what each must look like at the other end: no two
// messages of a run are equal, and each shows whose it is.
type pattern struct {
	size   int
	json   bool // a JSON object with an id that no other message of the run has
	filler []byte
}

// fillerStep is how far apart the fillers of neighbouring connections begin.
const fillerStep = 61

// broadcastID stands for the number of a connection in messages that go to all.
const broadcastID = 1<<32 - 1

// What a binary payload begins with.
const (
	kindEcho      = 'E' // to be sent back
	kindBroadcast = 'B' // from the upstream to all
	kindCall      = 'C' // to the upstream: send broadcast N with a payload of SIZE
)

const minBinary, minJSON = 16, 48

func newPattern(size int, json bool) (*pattern, error) {
	if least := map[bool]int{false: minBinary, true: minJSON}[json]; size < least || size > maxFrame/2 {
		return nil, fmt.Errorf("a payload of %d bytes: want %d to %d", size, least, maxFrame/2)
	}
	p := &pattern{size: size, json: json, filler: make([]byte, size+64<<10)}
	r := rand.New(rand.NewPCG(6455, 1)) // the same in every process: an upstream elsewhere makes the same
	for i := range p.filler {
		p.filler[i] = byte(r.Uint32())
		if json {
			p.filler[i] = 'a' + p.filler[i]%26
		}
	}
	return p, nil
}

// append appends message number of connection id to dst.
func (p *pattern) append(dst []byte, kind byte, id uint32, number uint64) []byte {
	start := len(dst)
	dst = p.head(dst, kind, id, number)
	tail := 0
	if p.json {
		tail = 2
	}
	from := int(id) * fillerStep % (64 << 10)
	dst = append(dst, p.filler[from:from+p.size-(len(dst)-start)-tail]...)
	if p.json {
		dst = append(dst, `"}`...)
	}
	return dst
}

// matches reports whether b is that message.
func (p *pattern) matches(b []byte, kind byte, id uint32, number uint64) bool {
	if len(b) != p.size {
		return false
	}
	var space [64]byte
	head := p.head(space[:0], kind, id, number)
	if string(b[:len(head)]) != string(head) {
		return false
	}
	b = b[len(head):]
	if p.json {
		if string(b[len(b)-2:]) != `"}` {
			return false
		}
		b = b[:len(b)-2]
	}
	from := int(id) * fillerStep % (64 << 10)
	return string(b) == string(p.filler[from:from+len(b)])
}

func (p *pattern) head(dst []byte, kind byte, id uint32, number uint64) []byte {
	if p.json {
		dst = append(dst, `{"id":"`...)
		dst = strconv.AppendUint(dst, uint64(id), 36)
		dst = append(dst, '-')
		dst = strconv.AppendUint(dst, number, 36)
		return append(dst, `","text":"`...)
	}
	dst = append(dst, kind, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, id)
	return binary.BigEndian.AppendUint64(dst, number)
}

// appendCall appends the message that makes the upstream send broadcast number.
func appendCall(dst []byte, number uint64, size int) []byte {
	dst = append(dst, kindCall, 0, 0, 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(size))
	return binary.BigEndian.AppendUint64(dst, number)
}

// parseCall reads it.
func parseCall(b []byte) (number uint64, size int, ok bool) {
	if len(b) != minBinary || b[0] != kindCall {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[8:]), int(binary.BigEndian.Uint32(b[4:])), true
}
