package proxy

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// Where systems like this one went wrong, and the tests that hold that this one does not. Those of
// package session play the same against the core alone; scenarios are in testdata/scenarios.
//
//	counting at two places                          session.TestAnySplitGivesTheSame, session.TestSimulation;
//	                                                TestCountingClientsGetEachMessageOnce
//	a resume before the first message               TestResumeBeforeTheFirstMessage
//	a superseded leg's late loss                    TestAHangingLegIsSuperseded; session.TestTransitions
//	counts that outlive a failure                   TestALostSessionIsCountedAnew
//	an acknowledgement beyond what was sent         TestAnAcknowledgementBeyondWhatWasSentIsAProtocolError,
//	                                                TestMoreReceivedThanSentIsRefused
//	away twice, a resume without its event          TestGraceIsOverToTheNanosecond, TestAwayIsHeldBackForAwayAfter;
//	                                                scenario events_are_balanced
//	a cookie for an identity                        TestTabsWithOneKeyAreTwoSessions
//	limits for each session, none for all           TestOverTheBufferLimit…, TestEveryPlaceComesBack
//	everybody at once                               TestHeartbeatsBeginAtRandomMomentsAndGoOnInTime
//	missed pongs of a page that is busy             TestAPageThatIsBusyIsGivenMoreTime; scenario busy_client
//	a pong that proves too much, or is forged       TestReceiptsAreAskedForInTime, TestAForgedPongProvesNothing
//	pongs that answer several pings, strange pings  TestAForgedPongProvesNothing, TestControlFramesStayOnTheirLeg
//	1001 for leaving and for coming back            TestWhatIsADropAndWhatIsAnEnd
//	a huge length that is believed                  TestViolationsCostTheLegThatCommitsThem; session.TestHugeLengthCostsNothing
//	heartbeats of applications                      TestHeartbeatsOfApplicationsAreData
//	a cache with a goroutine that never ends        TestMain
//	bytes behind the handshake                      TestEarlyBytesReachTheOtherSide

// A client whose session is gone begins anew, and everything is counted from the beginning. Where
// old counts were kept, clients reconnected without end.
func TestALostSessionIsCountedAnew(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		c := w.counting("/")
		w.backend.Peer(0).Say("1", "2", "3")
		c.Say("a", "b")
		w.settle()
		token := c.welcome(t).Token
		c.Drop()
		w.pass(w.cfg.Session.Grace)
		wantClose(t, w.resume(token, 3).Peer, "a resume after the grace", 4404)
		c = w.counting("/")
		if got := c.welcome(t); got.Resumed || got.Received != 0 {
			t.Errorf("the new session's welcome is %+v", got)
		}
		w.backend.Peer(1).Say("one")
		c.Say("c")
		w.settle()
		c.wantData(t, "the new session", "one")
		w.drop(c)
		again := w.resume(c.welcome(t).Token, 1)
		if got := again.welcome(t); !got.Resumed || got.Received != 1 {
			t.Errorf("the resume's welcome is %+v", got)
		}
		again.wantData(t, "after the resume")
		wantTexts(t, w.backend.Peer(1), "the new upstream", "c")
	})
}

// A browser stops answering pings while its page is too busy to read. As long as its TCP takes what is
// sent, that is no death; but only for so long.
func TestAPageThatIsBusyIsGivenMoreTime(t *testing.T) {
	const missed = 4
	for _, talks := range []bool{false, true} {
		t.Run(fmt.Sprintf("with an upstream that talks: %t", talks), func(t *testing.T) {
			socketStory(t, func(c *config.Config) {
				c.Heartbeat = config.ClientHeartbeat{Interval: 250 * time.Millisecond, MaxMissed: missed}
				c.Replay.MaxMessages = 1 << 20
				c.Replay.MaxBytes = 64 << 20
				c.Replay.Overflow = config.OverflowDropOldest
			}, func(t *testing.T, w *world) {
				c := w.client("/?client_id=a")
				c.Mute(true)
				up := w.backend.Peer(0)
				for late := time.Now().Add(proxytest.Patience); w.p.Stats().LegsLost["unheard"] == 0; time.Sleep(5 * time.Millisecond) {
					if talks {
						up.Say(strings.Repeat("x", 1000))
					}
					if time.Now().After(late) {
						t.Fatal("a client that answers nothing is never lost")
					}
				}
				n := w.p.Stats().HeartbeatsMissed
				known := acknowledgedKnown(w)
				switch {
				case talks && known && n <= missed:
					t.Errorf("a client that takes what is sent was lost after %d heartbeats, the same as a dead one", n)
				case !talks && n != missed:
					t.Errorf("a client that shows no sign of life was lost after %d heartbeats, want %d", n, missed)
				}
				if n > 2*missed {
					t.Errorf("a client that answers nothing was lost only after %d heartbeats", n)
				}
			})
		})
	}
}

// acknowledgedKnown reports whether this system tells what a peer's TCP has taken.
func acknowledgedKnown(w *world) bool {
	for r := range w.p.sessions.all {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.upstream.Stat().AckedKnown
	}
	return false
}

// To the proxy, what applications send to keep their connections alive is like all else: it is
// counted, kept and replayed.
func TestHeartbeatsOfApplicationsAreData(t *testing.T) {
	story(t, nil, func(t *testing.T, w *world) {
		w.drop(w.client("/?client_id=a"))
		up := w.backend.Peer(0)
		for range 3 {
			up.Say("2", `{"type":"ping"}`)
			w.pass(time.Second)
		}
		c := w.client("/?client_id=a")
		c.Say("3", "3")
		w.settle()
		wantTexts(t, c, "the client", "2", `{"type":"ping"}`, "2", `{"type":"ping"}`, "2", `{"type":"ping"}`)
		wantTexts(t, up, "the upstream", "3", "3")
	})
}
