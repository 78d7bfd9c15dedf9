//go:build linux

package main

import (
	"math"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(i + 1)
	}
	for _, c := range []struct {
		q    float64
		want int64
	}{{0, 1}, {0.001, 1}, {0.5, 50}, {0.99, 99}, {0.991, 100}, {1, 100}} {
		if got := percentile(hundred, c.q); got != c.want {
			t.Errorf("percentile %v of 1 to 100: got %d, want %d", c.q, got, c.want)
		}
	}
	if got := percentile([]int64(nil), 0.5); got != 0 {
		t.Errorf("percentile of nothing: %d", got)
	}
}

func TestMedian(t *testing.T) {
	if got := median([]float64{9, 1, 5}); got != 5 {
		t.Errorf("of three: %v", got)
	}
	if got := median([]float64{9, 1, 5, 6}); got != 5.5 {
		t.Errorf("of four: %v", got)
	}
	if got := median(nil); !math.IsNaN(got) {
		t.Errorf("of none: %v", got)
	}
}

func TestPausesSpoilTheirTenthsOnly(t *testing.T) {
	var all []latency
	for i := range int64(1000) {
		l := latency{due: i * int64(time.Millisecond), took: 50}
		if i%100 >= 98 {
			l.took = 200 // in every tenth of a second
		}
		if i/100 < 4 && i%100 < 50 {
			l.took = 9000 // two pauses of a fifth of a second
		}
		all = append(all, l)
	}
	if got, whole := usualP99(all), spreadOf(taken(all)).P99; got != 200 || whole != 9000 {
		t.Errorf("the p99 of a usual tenth is %d, want 200; of the whole %d, want 9000", got, whole)
	}
	if got := usualP99(nil); got != 0 {
		t.Errorf("of nothing: %d", got)
	}
}
