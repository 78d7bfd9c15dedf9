//go:build linux

package main

// turnover opens sessions (new) or resumes them, so many at a time.
func (r *run) turnover(res *result, c *syscallCounter) error {
	again := r.resumeNext
	if r.mode == modeNew {
		again = r.openNext
		for range r.concurrency {
			s := &session{run: r, id: r.nextID}
			r.nextID++
			r.sessions = append(r.sessions, s)
			if err := r.dial(s); err != nil {
				return err
			}
		}
	}
	if err := r.window(res, c, func() error {
		if err := again(); err != nil {
			return err
		}
		return r.poll()
	}); err != nil {
		return err
	}
	if r.mode == modeNew {
		ended := 0
		_, err := r.until(r.drain, func() bool {
			ended += len(r.justEnded)
			r.closeOpened()
			r.justEnded = r.justEnded[:0]
			return ended == len(r.sessions) || r.broken > 0
		})
		return err
	}
	if _, err := r.until(r.drain, func() bool { return r.dialling == 0 || r.broken > 0 }); err != nil {
		return err
	}
	return r.exchange()
}

func (r *run) closeOpened() {
	for _, s := range r.justOpen {
		s.sendClose()
	}
	r.justOpen = r.justOpen[:0]
}

// openNext closes what has opened, and opens one with a new number for each that has been closed.
func (r *run) openNext() error {
	r.closeOpened()
	for _, s := range r.justEnded {
		s.id = r.nextID
		r.nextID++
		if err := r.dial(s); err != nil {
			return err
		}
	}
	r.turned += int64(len(r.justEnded))
	r.justEnded = r.justEnded[:0]
	return nil
}

// resumeNext resets as many connections as there are places, one session after the other, and dials again.
func (r *run) resumeNext() error {
	r.turned += int64(len(r.justOpen))
	r.justOpen = r.justOpen[:0]
	for ; r.dialling < r.concurrency; r.next++ {
		s := r.sessions[r.next%len(r.sessions)]
		if s.state != stateOpen { // all others are on their way
			return nil
		}
		s.reset()
		if err := r.dial(s); err != nil {
			return err
		}
	}
	return nil
}
