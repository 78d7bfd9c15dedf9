package dedup

// An index tells where ids have their marks: a hash table with open addressing and linear probing (Knuth: The Art of
// Computer Programming, volume 3, section 6.4, algorithms L and R). Its length is a power of two.
type index []cell

// A cell holds the position of a mark, from 1 on, and 32 bits of its id's hash, which tell nearly all other ids
// apart without a look at the mark and the cell's home without one at all. 0: the cell is empty.
type cell uint64

// minCells is the length of an index in the beginning.
const minCells = 64

func newIndex(cells int) index { return make(index, cells) }

func newCell(id ID, mark uint32) cell { return cell(id.tag())<<32 | cell(mark) }

func (c cell) mark() uint32 { return uint32(c) }
func (c cell) tag() uint32  { return uint32(c >> 32) }

func (id ID) tag() uint32 { return uint32(id.a) }

// home is where the search for an id begins.
func (x index) home(tag uint32) int { return int(tag) & (len(x) - 1) }

// next is where it goes on.
func (x index) next(at int) int { return (at + 1) & (len(x) - 1) }

// full reports whether n ids are more than x should hold: from four fifths on, runs of taken cells get long.
func (x index) full(n int) bool { return n > len(x)/5*4 }

// grown returns x with twice the cells.
func (x index) grown() index {
	g := newIndex(2 * len(x))
	for _, c := range x {
		if c == 0 {
			continue
		}
		at := g.home(c.tag())
		for g[at] != 0 {
			at = g.next(at)
		}
		g[at] = c
	}
	return g
}

// remove empties the cell at and moves others up whose search would end there.
func (x index) remove(at int) {
	for behind := x.next(at); x[behind] != 0; behind = x.next(behind) {
		// Cells between home and at, cyclically: is at on the way from the home of behind to it?
		if x.distance(x.home(x[behind].tag()), behind) >= x.distance(at, behind) {
			x[at], at = x[behind], behind
		}
	}
	x[at] = 0
}

// distance is how far it is on from one cell to another.
func (x index) distance(from, to int) int { return (to - from) & (len(x) - 1) }
