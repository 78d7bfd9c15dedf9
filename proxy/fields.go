package proxy

import (
	"net/http"
	"net/textproto"
)

// maxHeadLines is how many header lines fields takes.
const maxHeadLines = 64

// fields are the header lines of one message, taken apart into memory that serves the next one too.
type fields struct {
	header http.Header
	values [maxHeadLines]string
}

// parse takes text apart, header lines without the empty one behind them. Of what net/http lets pass it
// takes only lines that end with CRLF, are not folded and have no odd characters: ok is false for
// all else. The names are as in any http.Header; names and values are parts of text where they can be.
func (f *fields) parse(text string) (ok bool) {
	if f.header == nil {
		f.header = make(http.Header, 16)
	}
	lines := 0
	for i := 0; i < len(text); lines++ {
		nameAt := i
		for i < len(text) && nameChar[text[i]] {
			i++
		}
		if i == nameAt || i == len(text) || text[i] != ':' || lines == maxHeadLines {
			return false
		}
		name := text[nameAt:i]
		valueAt := i + 1
		for i++; i < len(text) && (text[i] >= ' ' && text[i] != 0x7f || text[i] == '\t'); {
			i++
		}
		if len(text)-i < 2 || text[i] != '\r' || text[i+1] != '\n' {
			return false
		}
		value := textproto.TrimString(text[valueAt:i])
		i += 2
		name = canonicalName(name)
		if before := f.header[name]; before != nil {
			f.header[name] = append(before, value)
		} else {
			f.values[lines] = value
			f.header[name] = f.values[lines : lines+1 : lines+1]
		}
	}
	return true
}

// forget makes ready for the next message.
func (f *fields) forget() {
	clear(f.header)
	clear(f.values[:])
}
