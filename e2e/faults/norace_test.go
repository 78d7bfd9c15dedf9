//go:build !race

package faults

var raceArgs []string

const raceEnabled = false
