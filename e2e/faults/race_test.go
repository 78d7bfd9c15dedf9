//go:build race

package faults

// raceArgs: under the race detector the program is built with it too.
var raceArgs = []string{"-race"}

const raceEnabled = true
