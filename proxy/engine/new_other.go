//go:build !linux

package engine

// New returns the best engine for this system.
func New(o Options) Engine { return NewPortable(o) }
