package shim

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
)

// command is one call of the command line: that of runc, as far as the keeper uses it.
type command struct {
	shim, config string // which shim, and its configuration
	systemd      bool   // cgroups are systemd's
	root, log    string
	name         string
	args         []string
}

// Main runs one call and returns its exit status.
func Main(args []string) int {
	if len(args) == 1 && args[0] == monitorArg {
		return monitorMain()
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	c, err := parse(args)
	if err == nil {
		err = c.run(ctx)
	}
	if err == nil {
		return 0
	}
	c.complain(err)
	return 1
}

func parse(args []string) (command, error) {
	var c command
	var format string
	f := flag.NewFlagSet("skiff-shim", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.shim, "shim", "", "binary of the shim, or its name, as io.containerd.kata.v2")
	f.StringVar(&c.config, "shim-config", "", "configuration file of the shim")
	f.StringVar(&c.root, "root", "/run/skiff-shim", "state directory")
	f.BoolVar(&c.systemd, "systemd-cgroup", false, "cgroups are made by systemd")
	f.StringVar(&c.log, "log", "", "file for errors")
	f.StringVar(&format, "log-format", "json", "ignored: it is JSON")
	if err := f.Parse(args); err != nil {
		return c, err
	}
	if f.NArg() == 0 {
		return c, errors.New("no command")
	}
	c.name, c.args = f.Arg(0), f.Args()[1:]
	return c, nil
}

// complain writes the error where OCI runtimes do.
func (c command) complain(err error) {
	if c.log != "" {
		line, _ := json.Marshal(map[string]string{"level": "error", "msg": err.Error(), "time": time.Now().Format(time.RFC3339)})
		if f, openErr := os.OpenFile(c.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); openErr == nil {
			_, _ = f.Write(append(line, '\n'))
			f.Close()
			return
		}
	}
	fmt.Fprintln(os.Stderr, "skiff-shim:", err)
}

func (c command) run(ctx context.Context) error {
	commands := map[string]func(context.Context) error{
		"create": c.create, "start": c.start, "exec": c.exec, "kill": c.kill, "update": c.update, "delete": c.delete,
		"features": c.features,
		"publish":  func(context.Context) error { return nil }, // events of shims that know no events service: nobody needs them
	}
	do, ok := commands[c.name]
	if !ok {
		return fmt.Errorf("unknown command %q", c.name)
	}
	return do(ctx)
}

// flags parses the arguments of a command, and returns those that are not flags: as many as are wanted.
func (c command) flags(want int, define func(*flag.FlagSet)) ([]string, error) {
	f := flag.NewFlagSet(c.name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	define(f)
	if err := f.Parse(c.args); err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	if f.NArg() != want {
		return nil, fmt.Errorf("%s: %d arguments, want %d", c.name, f.NArg(), want)
	}
	return f.Args(), nil
}

func (c command) create(ctx context.Context) error {
	binary, err := Find(c.shim)
	if err != nil {
		return err
	}
	req := request{Kind: kindInit, Binary: binary, Config: c.config, Systemd: c.systemd, Root: c.root}
	var pidFile string
	args, err := c.flags(1, func(f *flag.FlagSet) {
		f.StringVar(&req.Bundle, "bundle", "", "")
		f.StringVar(&pidFile, "pid-file", "", "")
		f.StringVar(&req.Console, "console-socket", "", "")
	})
	if err != nil {
		return err
	}
	req.ID = args[0]
	return spawnMonitor(ctx, req, pidFile)
}

func (c command) exec(ctx context.Context) error {
	req := request{Kind: kindExec, Root: c.root}
	var pidFile string
	args, err := c.flags(1, func(f *flag.FlagSet) {
		f.StringVar(&req.Process, "process", "", "")
		f.StringVar(&pidFile, "pid-file", "", "")
		f.StringVar(&req.Console, "console-socket", "", "")
		f.Bool("detach", false, "")
		f.Bool("tty", false, "")
	})
	if err != nil {
		return err
	}
	req.ID = args[0]
	return spawnMonitor(ctx, req, pidFile)
}

// withShim calls the shim of a container.
func (c command) withShim(ctx context.Context, id string, do func(*client, state) error) error {
	s, err := loadState(c.root, id)
	if err != nil {
		return err
	}
	shim, err := connect(ctx, s.Shim)
	if err != nil {
		return err
	}
	defer shim.Close()
	return do(shim, s)
}

func (c command) start(ctx context.Context) error {
	args, err := c.flags(1, func(*flag.FlagSet) {})
	if err != nil {
		return err
	}
	return c.withShim(ctx, args[0], func(shim *client, s state) error {
		_, err := shim.start(ctx, s.ID, "")
		return err
	})
}

func (c command) kill(ctx context.Context) error {
	all := false
	args, err := c.flags(2, func(f *flag.FlagSet) { f.BoolVar(&all, "all", false, "") })
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(args[1], 10, 32)
	if err != nil {
		return fmt.Errorf("kill: signal %q is not a number", args[1])
	}
	err = c.withShim(ctx, args[0], func(shim *client, s state) error {
		return shim.kill(ctx, &task.KillRequest{ID: s.ID, Signal: uint32(number), All: all})
	})
	if notFound(err) || gone(err) {
		return nil // it has ended, or its monitor ends with the shim that is gone
	}
	return err
}

func (c command) update(ctx context.Context) error {
	path := ""
	args, err := c.flags(1, func(f *flag.FlagSet) { f.StringVar(&path, "resources", "", "") })
	if err != nil {
		return err
	}
	resources, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return c.withShim(ctx, args[0], func(shim *client, s state) error { return shim.update(ctx, s.ID, resources) })
}

// features says that the shim is there, and nothing of what the runtime behind it can do: only it knows.
func (c command) features(context.Context) error {
	_, err := Find(c.shim)
	if err == nil {
		_, err = fmt.Println(`{"ociVersionMin": "1.0.0", "ociVersionMax": "1.0.2"}`)
	}
	return err
}

// deleteLimit bounds how long a killed container may take to end.
const deleteLimit = 20 * time.Second

// delete removes a container, killing what runs of it; and its shim, when it was the last one. What is gone is no error.
func (c command) delete(ctx context.Context) error {
	args, err := c.flags(1, func(f *flag.FlagSet) { f.Bool("force", false, "") })
	if err != nil {
		return err
	}
	s, err := loadState(c.root, args[0])
	if errors.Is(err, errNoState) {
		return os.RemoveAll(s.dir)
	}
	if err != nil {
		return err
	}
	shim, err := connect(ctx, s.Shim)
	if err == nil {
		defer shim.Close()
		err = remove(ctx, shim, s)
	}
	if gone(err) {
		err = errors.Join(launch{binary: s.Binary, id: s.ID, bundle: s.Bundle}.clean(ctx), s.Shim.removeSocket())
	}
	if err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}

// remove takes a container away from its shim, and ends the shim if that was its last.
func remove(ctx context.Context, shim *client, s state) error {
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	if err := shim.delete(ctx, s.ID, ""); err != nil && !notFound(err) {
		// It runs, or is being made.
		if err := shim.kill(ctx, &task.KillRequest{ID: s.ID, Signal: uint32(unix.SIGKILL), All: true}); err != nil && !notFound(err) {
			return err
		}
		if _, err := shim.wait(ctx, s.ID, ""); err != nil && !notFound(err) {
			return err
		}
		if err := shim.delete(ctx, s.ID, ""); err != nil && !notFound(err) {
			return err
		}
	}
	return shim.shutdown(ctx, s.ID)
}
