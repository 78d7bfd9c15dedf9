package engine

import "testing"

func TestLoops(t *testing.T) { testEngine(t, New) }
