package main

import (
	"io"
	"sync"
	"time"
)

const (
	// maxQueuedBytes bounds the log lines that wait to be written.
	maxQueuedBytes = 1 << 20
	// maxFlushTime is how long an end of the program waits for whoever reads its log.
	maxFlushTime = time.Second
)

// A logQueue keeps a log that nobody takes (a pipe that is full, a terminal that is held, a slow disk) from
// holding up whoever logs. Lines are written in the background; while too many wait, new ones are dropped, and
// one line tells how many once there is room again. It implements zapcore.WriteSyncer, is safe for concurrent
// use, and has a goroutine only while there is something to write.
type logQueue struct {
	w    io.Writer
	lost func(lines int) []byte // the line that tells of lost ones

	mu      sync.Mutex
	queue   []byte
	dropped int           // lines since the last one that was queued
	idle    chan struct{} // closed once all is written; nil while nothing is being written
}

// Write queues a line; it never blocks and never fails.
func (q *logQueue) Write(line []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue)+len(line) > maxQueuedBytes {
		q.dropped++
		return len(line), nil
	}
	q.queue = append(q.queue, line...)
	if q.idle == nil {
		q.idle = make(chan struct{})
		go q.writeOut()
	}
	return len(line), nil
}

func (q *logQueue) writeOut() {
	for {
		q.mu.Lock()
		lines := q.queue
		if q.dropped > 0 {
			lines = append(lines, q.lost(q.dropped)...)
		}
		q.queue, q.dropped = nil, 0
		if len(lines) == 0 {
			close(q.idle)
			q.idle = nil
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		_, _ = q.w.Write(lines) // a log that can't be written has nowhere to say so
	}
}

// Sync waits until all that was queued is written, for maxFlushTime at most.
func (q *logQueue) Sync() error {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
	case <-time.After(maxFlushTime):
	}
	return nil
}
