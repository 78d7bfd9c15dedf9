// Command tideover keeps WebSocket sessions alive while their clients are away.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tideover/tideover/cmd/tideover/demo"
	"github.com/tideover/tideover/config"
)

// Exit codes.
const (
	exitOK    = 0
	exitError = 1 // the configuration is wrong, or something failed while running
	exitUsage = 2 // the command line is wrong
)

func main() {
	// A collector of logs that has gone must not take the proxy and its sessions along: without this, a write to
	// a pipe without readers ends the process (os/signal, "SIGPIPE").
	signal.Ignore(syscall.SIGPIPE)
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns the exit code. It stops early, and
// cleanly, when ctx is done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	p := &program{stdout: stdout, stderr: stderr, newServer: newServer, runDemo: demo.Run, notify: signal.Notify, unnotify: signal.Stop}
	return p.run(ctx, args)
}

// program is the world that a command runs in.
type program struct {
	stdout, stderr io.Writer
	newServer      serverFunc
	runDemo        demoFunc
	notify         func(chan<- os.Signal, ...os.Signal) // as signal.Notify
	unnotify       func(chan<- os.Signal)               // as signal.Stop
}

// usageError is a command line that means nothing.
type usageError struct{ error }

// errReported is an error that the user has been told of.
var errReported = errors.New("reported")

func (p *program) run(ctx context.Context, args []string) int {
	root := p.rootCommand()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	cmd, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &usage):
		_, _ = fmt.Fprintf(p.stderr, "tideover: %v\nRun '%s --help' for usage.\n", err, cmd.CommandPath())
		return exitUsage
	case !errors.Is(err, errReported):
		_, _ = fmt.Fprintf(p.stderr, "tideover: %v\n", err)
	}
	return exitError
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:                        "tideover",
		SuggestionsMinimumDistance: 2,
		Short:                      "A reverse proxy that keeps WebSocket sessions alive while their clients are away",
		Long: `Tideover stands before a WebSocket backend. When a client's connection drops,
the backend keeps its own; what it sends meanwhile waits for the client's return.

Exit codes: 0 after a clean stop, 1 for an error while running or in the
configuration, 2 for a wrong command line.`,
		SilenceErrors:         true,
		SilenceUsage:          true,
		DisableFlagsInUseLine: true,
		CompletionOptions:     cobra.CompletionOptions{DisableDefaultCmd: true},
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("want a command: run, check, demo or version")}
			}
			return unknownCommand(cmd, args[0])
		},
		RunE: func(*cobra.Command, []string) error { return nil }, // Args lets nothing pass
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetHelpCommand(helpCommand(root))
	root.AddCommand(p.runCommand(), p.checkCommand(), p.demoCommand(), p.versionCommand())
	return root
}

func unknownCommand(root *cobra.Command, name string) error {
	hint := ""
	if near := root.SuggestionsFor(name); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %s?", near[0])
	}
	return usageError{fmt.Errorf("unknown command %q%s", name, hint)}
}

// helpCommand is cobra's, but that it knows an error when it sees one.
func helpCommand(root *cobra.Command) *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Tell about a command",
		RunE: func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err != nil || len(rest) > 0 {
				return unknownCommand(root, args[0])
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}

// noArgs refuses arguments that are no flags.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// withConfig adds --config to a command that does f with what the file says.
func (p *program) withConfig(cmd *cobra.Command, f func(ctx context.Context, path string) error) *cobra.Command {
	var path string
	cmd.Flags().StringVarP(&path, "config", "c", "", "the YAML `file` to read, as proxy.example.yaml explains it (required)")
	cmd.DisableFlagsInUseLine = true // Use has it
	cmd.Args = noArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if path == "" {
			return usageError{errors.New("want --config and the name of a file, such as --config proxy.yaml")}
		}
		return f(cmd.Context(), path)
	}
	return cmd
}

// load reads the configuration, and tells of every mistake in it, one a line.
func (p *program) load(path string) (*config.Config, error) {
	cfg, err := config.Load(path)
	var mistakes config.Errors
	if errors.As(err, &mistakes) {
		_, _ = fmt.Fprintln(p.stderr, mistakes)
		return nil, errReported
	}
	return cfg, err
}

func (p *program) runCommand() *cobra.Command {
	return p.withConfig(&cobra.Command{
		Use:   "run --config FILE",
		Short: "Run the proxy",
		Long: `Run the proxy until it is told to stop.

SIGTERM and SIGINT end it cleanly, a second one at once. SIGHUP reads the
configuration again; a wrong one is logged, and the old one stays.
Logs go to standard error.`,
		Example: "  tideover run --config proxy.yaml",
	}, p.runProxy)
}

func (p *program) checkCommand() *cobra.Command {
	return p.withConfig(&cobra.Command{
		Use:   "check --config FILE",
		Short: "Check a configuration without running it",
		Long: `Check a configuration, and print every mistake on a line of its own with file,
line and key. Variables of the environment must be set as for run.`,
		Example: "  tideover check --config proxy.yaml",
	}, func(_ context.Context, path string) error {
		if _, err := p.load(path); err != nil {
			return err
		}
		_, err := fmt.Fprintf(p.stdout, "%s: OK\n", path)
		return err
	})
}

func (p *program) demoCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show in a browser what the proxy does; needs no file",
		Long: `Start a plain chat backend, the proxy before it, and a page that shows the same
chat with and without the proxy, with a network that you can break.`,
		Example: "  tideover demo --listen 127.0.0.1:8080",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			addr, err := config.ParseAddress(listen)
			if err != nil || addr.Network != "tcp" {
				return usageError{fmt.Errorf("--listen %q: want host:port or :port, such as 127.0.0.1:8080", listen)}
			}
			return p.demo(cmd.Context(), listen)
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8080", "the `address` of the page")
	return cmd
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print version, commit and Go version",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(p.stdout, thisBuild())
			return err
		},
	}
}
