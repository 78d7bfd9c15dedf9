package slab

import (
	"math/rand/v2"
	"sync"
	"testing"
)

type value struct {
	owner int
	text  string
	_     [40]byte
}

// Under random use every value is handed out to one at a time, as zero, and keeps what is written into it; chunks come when all
// others are full, and of those that are empty only one stays.
func TestSlab(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 1))
	t.Logf("seed %d", seed)
	var s Slab[value]
	owners := map[*value]int{}
	var held []*value
	for step := range 100_000 {
		most := 1 + step/1000%7*50 // it fills and empties again and again
		if len(held) < most && (len(held) == 0 || rng.IntN(3) > 0) {
			full := s.room == nil
			v := s.Get()
			switch {
			case *v != value{}:
				t.Fatalf("step %d: a value that is not zero: %+v", step, *v)
			case owners[v] != 0:
				t.Fatalf("step %d: a value of somebody else", step)
			case full && s.room != nil && s.room.used != 1:
				t.Fatalf("step %d: a new chunk with %d values in use", step, s.room.used)
			}
			v.owner, v.text = step+1, "mine"
			owners[v] = step + 1
			held = append(held, v)
		} else {
			i := rng.IntN(len(held))
			v := held[i]
			if v.owner != owners[v] {
				t.Fatalf("step %d: somebody else wrote into a value", step)
			}
			delete(owners, v)
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			s.Put(v)
		}
		check(t, &s, len(held))
	}
	for _, v := range held {
		s.Put(v)
	}
	if s.room == nil || s.room.next != nil || s.room.used != 0 {
		t.Error("an empty slab keeps more than one chunk, or none")
	}
}

// check looks at the chunks that have room.
func check(t *testing.T, s *Slab[value], held int) {
	t.Helper()
	if s.Len() != held {
		t.Fatalf("%d values in use, want %d", s.Len(), held)
	}
	used, chunks, empty := 0, 0, 0
	for c, before := s.room, (*chunk[value])(nil); c != nil; c, before = c.next, c {
		free := 0
		for i := c.free; i != none; i = c.cells[i].next {
			free++
		}
		if c.prev != before || free != perChunk-int(c.used) || free == 0 {
			t.Fatalf("a chunk with %d values in use has %d free", c.used, free)
		}
		if c.used == 0 {
			empty++
		}
		used += int(c.used)
		chunks++
	}
	if full := held - used; full < 0 || full%perChunk != 0 || empty > 1 {
		t.Fatalf("%d values in use: %d of them in %d chunks with room, of which %d are empty", held, used, chunks, empty)
	}
}

func TestSlabIsForMany(t *testing.T) {
	var s Slab[value]
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			var held []*value
			for i := range 2000 {
				v := s.Get()
				if *v != (value{}) {
					t.Errorf("a value that is not zero: %+v", *v)
				}
				v.owner = worker
				if held = append(held, v); i%3 != 0 {
					continue
				}
				for _, v := range held {
					if v.owner != worker {
						t.Error("somebody else wrote into a value")
					}
					s.Put(v)
				}
				held = held[:0]
			}
		})
	}
	all.Wait()
}
