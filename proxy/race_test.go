//go:build race

package proxy

// raceEnabled: the race detector drops pooled objects at random, so that allocations tell nothing.
const raceEnabled = true
