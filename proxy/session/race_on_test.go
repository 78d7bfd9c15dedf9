//go:build race

package session

// raceDetector: allocations are not counted then, it makes pools forget at random.
const raceDetector = true
