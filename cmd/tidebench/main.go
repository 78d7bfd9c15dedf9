//go:build linux

// Command tidebench measures what relaying WebSockets costs, in Tideover and in other proxies. Linux only.
//
//	tidebench compare    everything, several proxies side by side, as Markdown
//	tidebench load       one measurement against one address
//	tidebench upstream   the server behind the proxy, on its own
//
// It compares every payload with what was sent: a proxy that corrupts or loses a message has failed, however fast.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use: "tidebench", Short: "Measure what relaying WebSockets costs",
		SilenceErrors: true, SilenceUsage: true, CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.AddCommand(loadCommand(), upstreamCommand(), compareCommand(), pinCommand(), relayCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "tidebench: %v\n", err)
		os.Exit(1)
	}
}

// loopThread gives the calling goroutine the thread, and spares it the garbage collector as far as possible.
func loopThread() {
	runtime.LockOSThread()
	runtime.GOMAXPROCS(2) // the loop's and, with TLS, that of handshakes
	debug.SetGCPercent(400)
}

func loadCommand() *cobra.Command {
	o := options{}
	var sources []string
	var asJSON, barrier bool
	cmd := &cobra.Command{
		Use:   "load --target ws://ADDRESS:PORT/?client_id=",
		Short: "Measure one thing against one address",
		Long: `Opens sessions, whose numbers are appended to the target, and does one thing with them:

  echo     clients send, the upstream sends back; with --rate at a fixed rate, and latency is measured
           from when a message was due
  down     the upstream sends to all, and again when all have it
  idle     sessions that say nothing (memory)
  new      connect, handshake, close, with ever new numbers
  resume   reset the connection, and connect again with the same number
  grow     idle, then echo
  storm    reset all connections but those of --talkers, as fast as that goes, and have all clients back

The upstream is tidebench's own: --upstream serves it in the same thread, tidebench upstream elsewhere.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range sources {
				a, err := netip.ParseAddr(s)
				if err != nil {
					return fmt.Errorf("reading --source: %w", err)
				}
				o.sources = append(o.sources, a)
			}
			var all []int
			for _, pid := range o.pids {
				all = append(all, descendants(pid)...)
			}
			o.pids = all
			if barrier {
				o.barrier, o.ready = cmd.InOrStdin(), cmd.ErrOrStderr()
			}
			loopThread()
			res, err := measure(o)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(res)
			}
			return res.print(cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.targets, "target", nil, "where to connect, in turn; the number of the session is appended")
	f.StringVar(&o.mode, "mode", modeEcho, "echo, down, idle, new, resume, grow or storm")
	f.IntVar(&o.conns, "conns", 100, "sessions")
	f.IntVar(&o.size, "size", 128, "bytes of a message")
	f.BoolVar(&o.json, "ids", false, "send JSON text messages, each with an id of its own")
	f.IntVar(&o.inflight, "inflight", 1, "messages that each session has under way")
	f.Float64Var(&o.rate, "rate", 0, "messages a second that all clients together send; 0: the next one when the last one is back")
	f.DurationVar(&o.duration, "duration", 3*time.Second, "length of what is measured")
	f.DurationVar(&o.warmup, "warmup", 500*time.Millisecond, "time before it that does not count")
	f.DurationVar(&o.drain, "drain", 20*time.Second, "how long what is under way at the end may take before it is lost")
	f.DurationVar(&o.settle, "settle", 10*time.Second, "idle: time until memory is read")
	f.IntVar(&o.concurrency, "concurrency", 64, "handshakes under way at a time")
	f.StringSliceVar(&sources, "source", nil, "addresses to connect from, in turn")
	f.StringSliceVar(&o.upstreams, "upstream", nil, "address:port where to serve the upstream")
	f.IntVar(&o.talkers, "talkers", 500, "storm: sessions that are not dropped, and talk at --rate")
	f.IntSliceVar(&o.pids, "pid", nil, "the proxy's process, whose descendants count as well")
	f.BoolVar(&o.syscalls, "syscalls", false, "count the proxy's system calls (needs root)")
	f.BoolVar(&barrier, "barrier", false, "grow: say ready on standard error, and go on when standard input has something or ends")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	_ = cmd.MarkFlagRequired("target")
	return cmd
}

// print tells people what load found.
func (r *result) print(w io.Writer) error {
	if fault := r.check(); fault != "" {
		return fmt.Errorf("the relay failed: %s", fault)
	}
	if r.Messages > 0 {
		fmt.Fprintf(w, "%d messages relayed in %.2f s: %.0f a second\n", r.Messages, r.Seconds, float64(r.Messages)/r.Seconds)
		fmt.Fprintf(w, "CPU a message: proxy %.0f ns, tidebench %.0f ns\n", float64(r.ProxyCPU)/float64(r.Messages), float64(r.LoadCPU)/float64(r.Messages))
	}
	if r.Syscalls > 0 && r.Messages > 0 {
		fmt.Fprintf(w, "system calls of the proxy a message: %.3f\n", float64(r.Syscalls)/float64(r.Messages))
	}
	if r.Sessions > 0 {
		fmt.Fprintf(w, "%d sessions in %.2f s: %.0f a second; %d reached the upstream\n", r.Sessions, r.Seconds, float64(r.Sessions)/r.Seconds, r.UpstreamSessions)
	}
	if r.Latency.Count > 0 {
		fmt.Fprintf(w, "latency: %v; sent late by %v\n", r.Latency, r.Lateness)
	}
	if r.Storm.Away.Count > 0 {
		fmt.Fprintf(w, "%d clients back after: %v; %d handshakes were refused and tried again\n", r.Storm.Away.Count, r.Storm.Away, r.Storm.Refusals)
		fmt.Fprintf(w, "latency of the others meanwhile: %v; they sent late by %v\n", r.Storm.Latency, r.Storm.Lateness)
	}
	if r.MemoryAfter.RSS > 0 {
		fmt.Fprintf(w, "memory a session: %.2f KiB private, %.2f KiB resident\n",
			float64(r.MemoryAfter.Private-r.MemoryBefore.Private)/1024/float64(r.Conns), float64(r.MemoryAfter.RSS-r.MemoryBefore.RSS)/1024/float64(r.Conns))
	}
	fmt.Fprintf(w, "pings received: %d; CPUs busy with other things: %.2f; stolen: %.2f; load average %.2f\n", r.Pings, r.Others, r.Steal, r.Load)
	return nil
}

func upstreamCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use: "upstream", Short: "Serve the upstream: sends every message back, and broadcasts on call",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, err := netip.ParseAddrPort(listen)
			if err != nil {
				return fmt.Errorf("reading --listen: %w", err)
			}
			loopThread()
			l, err := newLoop()
			if err != nil {
				return err
			}
			defer l.close()
			u, err := listenUpstream(l, addr)
			if err != nil {
				return err
			}
			defer u.close()
			for cmd.Context().Err() == nil {
				if err := l.poll(100 * time.Millisecond); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9000", "address:port to serve at")
	return cmd
}
