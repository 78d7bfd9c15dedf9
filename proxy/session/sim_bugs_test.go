package session

// A bug is planted into a simulated session.
type bug struct {
	name         string
	attach       func(*sim)
	after        func(*sim)      // after each input, before its effects
	effects      func(*sim)      // before effects are carried out
	lost         func(*sim, Leg) // instead of ClientLost
	muteWritable bool
	muteBlocked  bool
}
