package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

func TestLogQueueWritesAllInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out, want bytes.Buffer
		q := &logQueue{w: &out, lost: func(int) []byte { return []byte("lost\n") }}
		for i := range 1000 {
			line := fmt.Sprintf("line %d\n", i)
			want.WriteString(line)
			if n, err := q.Write([]byte(line)); n != len(line) || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", len(line), n, err)
			}
			if i%300 == 0 {
				synctest.Wait() // all is written, and the next line begins anew
			}
		}
		q.Sync()
		if out.String() != want.String() {
			t.Errorf("%d bytes were written, want %d, in order", out.Len(), want.Len())
		}
	})
}

// Whoever logs goes on while nobody reads; what then arrives is the oldest megabyte, and how much is missing.
func TestLogQueueDoesNotBlock(t *testing.T) {
	for _, format := range []config.LogFormat{config.FormatJSON, config.FormatConsole} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			log, _ := newLogger(config.Log{Level: config.LevelInfo, Format: format}, w)
			const lines = 30_000
			for i := range lines {
				log.Info(fmt.Sprintf("line %06d", i), zap.String("pad", strings.Repeat("x", 100)))
			}
			began := time.Now()
			_ = log.Sync()
			if waited := time.Since(began); waited != maxFlushTime {
				t.Errorf("Sync waited for %v, want %v", waited, maxFlushTime)
			}
			got := make(chan string)
			go func() {
				all, _ := io.ReadAll(r)
				got <- string(all)
			}()
			synctest.Wait()
			log.Info("the last line")
			_ = log.Sync()
			w.Close()
			text := <-got
			whole := strings.Count(text, "line 0")
			if whole*200 < maxQueuedBytes/2 || len(text) > 2*maxQueuedBytes {
				t.Errorf("%d lines, %d bytes arrived; want about %d bytes", whole, len(text), maxQueuedBytes)
			}
			for i := range whole {
				if !strings.Contains(text, fmt.Sprintf("line %06d", i)) {
					t.Fatalf("line %d is missing among the first %d", i, whole)
				}
			}
			tail := strings.Split(strings.TrimSpace(text), "\n")[whole:]
			if len(tail) != 2 || !strings.Contains(tail[0], fmt.Sprint(lines-whole)) || !strings.Contains(tail[0], "lost") || !strings.Contains(tail[1], "the last line") {
				t.Errorf("after %d of %d lines came %q; want how many were lost, and the last line", whole, lines, tail)
			}
		})
	}
}
