package engine

import "testing"

// The loops serve sockets; what else there is goes to the portable engine, of which one kind must do.
func TestLoops(t *testing.T) {
	testEngine(t, New, map[string]pairer{"tcp": tcpPair, "unix": unixPair, "pipe": pipePair, "tls": tlsPair})
}
