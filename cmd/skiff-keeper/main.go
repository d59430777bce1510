// Command skiff-keeper is the parent of all containers of a node: it creates, starts, execs into, signals and reaps
// them, and writes their logs. The CRI server starts it, and it outlives the CRI server. See runtimeservice/keeper.
//
// libcontainer executes this same binary again as the init of each container, see init.go. So whatever is linked here
// is paid for at each start: no gRPC, no Kubernetes.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/server"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// version is set when the binary is linked.
var version = "unknown"

func main() {
	if len(os.Args) == 2 && os.Args[1] == oci.CompileArg {
		if err := oci.RunCompile(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "skiff-keeper:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	runDir  string
	log     string
	cgroup  string
	readyFD int
	stateFD int
	check   bool
	version bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("skiff-keeper", flag.ContinueOnError)
	flags.StringVar(&o.runDir, "run-dir", "/run/skiff/keeper", "directory of the socket, the journal and the records")
	flags.StringVar(&o.log, "log", "", "file to append the log to (default standard error)")
	flags.StringVar(&o.cgroup, "cgroup", "", "cgroup to move to, in each hierarchy (default: stay)")
	flags.IntVar(&o.readyFD, "ready-fd", -1, "file descriptor to say \"ok\" on when listening")
	flags.IntVar(&o.stateFD, "state-fd", -1, "file descriptor with the state of the keeper that executed this one")
	flags.BoolVar(&o.check, "check", false, "say as JSON what this binary is able to take over")
	flags.BoolVar(&o.version, "version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if !filepath.IsAbs(o.runDir) {
		return o, fmt.Errorf("-run-dir %q must be an absolute path", o.runDir)
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.version {
		fmt.Println("skiff-keeper", version, runtime.Version())
		return nil
	}
	if o.check {
		if o.stateFD >= 0 {
			if _, err := handover.Read(o.stateFD); err != nil {
				return err
			}
		}
		return json.NewEncoder(os.Stdout).Encode(handover.Own(version))
	}
	settle()
	if o.cgroup != "" {
		keeper.MoveToCgroup(o.cgroup)
	}
	ready := readiness(o.readyFD)
	defer ready.Close()
	s, err := open(o)
	if err != nil {
		fmt.Fprintln(ready, err)
		return err
	}
	fmt.Fprintln(ready, "ok")
	ready.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return s.Run(ctx)
}

// settle makes this process's surroundings fit for being inherited by containers.
func settle() {
	// A container must not talk to our service manager.
	os.Unsetenv("NOTIFY_SOCKET")
	os.Unsetenv("LISTEN_FDS")
	os.Unsetenv("LISTEN_PID")
	// libcontainer hands this variable, and no other, on to a container's init: a short program that one thread runs
	// best. Ours was set before.
	os.Setenv("GOMAXPROCS", "1")
	// Executed through a file descriptor, its name would be the descriptor's number.
	name := append([]byte("skiff-keeper"), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0)
	// Started below nohup, it would have every container's programs ignore that their terminal hangs up. What is caught
	// here is at its default in what is executed.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	syscall.Umask(0o022)
	_ = os.Chdir("/") // libcontainer takes the working directory for the bundle; ours is none
}

// readiness is where the one who launched us listens, or nowhere.
func readiness(fd int) io.WriteCloser {
	if fd < 0 {
		return discard{}
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready")
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) Close() error                { return nil }

func open(o options) (*server.Server, error) {
	out := os.Stderr
	if o.log != "" {
		f, err := os.OpenFile(o.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		out = f
	}
	log := slog.New(slog.NewTextHandler(out, nil))
	cfg := server.Config{RunDir: o.runDir, Log: log, Build: version, Args: []string{"-run-dir", o.runDir, "-log", o.log}}
	if o.stateFD >= 0 {
		state, err := handover.Read(o.stateFD)
		if err != nil {
			return nil, err
		}
		syscall.Close(o.stateFD)
		log.Info("took over", "from", state.Build, "build", version, "containers", len(state.Containers), "sessions", len(state.Sessions))
		cfg.State = &state
	}
	return server.New(cfg)
}
