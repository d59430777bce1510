package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Foreign runs one container with an OCI runtime's command line, that of runc, which crun, youki and runsc share. This
// process must be a child subreaper: the runtime exits, and its containers become our children.
type Foreign struct {
	Path    string   // of the binary
	Args    []string // global arguments, before the command
	Root    string   // the runtime's own state directory (--root)
	Monitor bool     // its processes only stand for those of the container
	Scratch string   // directory of ours for pid files, logs and console sockets
}

// Create writes config.json into the bundle and calls `create`.
func (f *Foreign) Create(ctx context.Context, req Create) (Created, error) {
	if req.Restore != "" {
		return Created{}, errors.New("a foreign runtime cannot continue from a checkpoint")
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(req.Spec, spec); err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	l, err := probeLimits()
	if err != nil {
		return Created{}, err
	}
	if err := l.apply(spec); err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	if req.Bundle == "" {
		req.Bundle = f.Scratch
	}
	if err := writeJSON(filepath.Join(req.Bundle, "config.json"), spec); err != nil {
		return Created{}, err
	}
	f.clean(ctx, req.ID)
	args := []string{"create", "--bundle", req.Bundle}
	if req.SystemdCgroup {
		args = append([]string{"--systemd-cgroup"}, args...)
	}
	p, err := f.spawn(ctx, req.IO, "init", args, req.ID)
	if err != nil {
		return Created{}, err
	}
	dirs := cgroupsAt(spec.Linux.CgroupsPath)
	if !f.Monitor {
		if dirs, err = cgroupsOf(p.Pid); err != nil {
			return Created{}, errors.Join(err, f.Delete(ctx, req.ID))
		}
	}
	return Created{Pid: p.Pid, Console: p.Console, Cgroups: dirs}, nil
}

// clean removes what a keeper that was killed has left. All runtimes name their state by the id.
func (f *Foreign) clean(ctx context.Context, id string) {
	if left, err := filepath.Glob(filepath.Join(f.Root, id+"*")); err == nil && len(left) > 0 {
		_ = f.run(ctx, IO{}, "delete", "--force", id)
	}
}

// Start calls `start`.
func (f *Foreign) Start(ctx context.Context, id string, _ <-chan struct{}) error {
	return f.run(ctx, IO{}, "start", id)
}

// Exec calls `exec --detach`.
func (f *Foreign) Exec(ctx context.Context, id string, process json.RawMessage, io IO) (Process, error) {
	dir, err := os.MkdirTemp(f.Scratch, "exec-")
	if err != nil {
		return Process{}, fmt.Errorf("exec: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "process.json")
	if err := os.WriteFile(path, process, 0o600); err != nil {
		return Process{}, fmt.Errorf("exec: %w", err)
	}
	return f.spawn(ctx, io, filepath.Base(dir), []string{"exec", "--detach", "--process", path}, id)
}

// Update calls `update`.
func (f *Foreign) Update(ctx context.Context, id string, resources json.RawMessage) error {
	path := filepath.Join(f.Scratch, "resources.json")
	if err := os.WriteFile(path, resources, 0o600); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return f.run(ctx, IO{}, "update", "--resources", path, id)
}

// Kill calls `kill`: the processes of a virtual machine are not reached by signals from here.
func (f *Foreign) Kill(ctx context.Context, id string, signal int, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	return f.run(ctx, IO{}, append(args, id, strconv.Itoa(signal))...)
}

// Delete calls `delete --force`.
func (f *Foreign) Delete(ctx context.Context, id string) error {
	return f.run(ctx, IO{}, "delete", "--force", id)
}

// spawn calls a command that leaves a process behind, and learns its pid and terminal.
func (f *Foreign) spawn(ctx context.Context, io IO, name string, args []string, id string) (Process, error) {
	pidFile := filepath.Join(f.Scratch, name+".pid")
	defer os.Remove(pidFile)
	args = append(args, "--pid-file", pidFile)
	var console *net.UnixListener
	if io.TTY {
		l, path, done, err := listenConsole(f.Scratch, name+".tty")
		if err != nil {
			return Process{}, err
		}
		defer done()
		console = l
		args = append(args, "--console-socket", path)
		if args[0] == "exec" {
			args = append(args, "--tty")
		}
	}
	if err := f.run(ctx, io, append(args, id)...); err != nil {
		return Process{}, err
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return Process{}, fmt.Errorf("read pid file: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return Process{}, fmt.Errorf("read pid file: %w", err)
	}
	p := Process{Pid: pid}
	if console != nil {
		p.Console, err = acceptConsole(console)
	}
	return p, err
}

// listenConsole makes a console socket. The limit of a socket's name is 108 bytes, so it is named through /proc.
func listenConsole(dir, name string) (l *net.UnixListener, path string, done func(), err error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, "", nil, fmt.Errorf("make console socket: %w", err)
	}
	path = fmt.Sprintf("/proc/%d/fd/%d/%s", os.Getpid(), d.Fd(), name)
	if l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"}); err != nil {
		d.Close()
		return nil, "", nil, fmt.Errorf("make console socket: %w", err)
	}
	return l, path, func() { l.Close(); d.Close() }, nil
}

func acceptConsole(l *net.UnixListener) (*os.File, error) {
	c, err := l.AcceptUnix()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	defer c.Close()
	socket, err := c.File()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	defer socket.Close()
	return receiveConsole(int(socket.Fd()))
}

// run calls the runtime. Its standard streams become the container's, so its own messages go to a log file.
func (f *Foreign) run(ctx context.Context, io IO, args ...string) error {
	log, err := os.CreateTemp(f.Scratch, "log-")
	if err != nil {
		return fmt.Errorf("run %s: %w", filepath.Base(f.Path), err)
	}
	defer os.Remove(log.Name())
	defer log.Close()
	all := append([]string{}, f.Args...)
	all = append(all, "--root", f.Root, "--log", log.Name(), "--log-format", "json")
	cmd := exec.CommandContext(ctx, f.Path, append(all, args...)...)
	var output *os.File
	if io.Stdout == nil && io.Stderr == nil {
		if output, err = os.CreateTemp(f.Scratch, "out-"); err != nil {
			return fmt.Errorf("run %s: %w", filepath.Base(f.Path), err)
		}
		defer os.Remove(output.Name())
		defer output.Close()
		io.Stderr = output
	}
	setCommandStreams(cmd, io)
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(f.Path), args[0], err, lastError(log.Name(), output))
	}
	return nil
}

func setCommandStreams(cmd *exec.Cmd, io IO) {
	if io.Stdin != nil {
		cmd.Stdin = io.Stdin
	}
	if io.Stdout != nil {
		cmd.Stdout = io.Stdout
	}
	if io.Stderr != nil {
		cmd.Stderr = io.Stderr
	}
}

// lastError is the last message of a runtime's JSON log, or else what it printed.
func lastError(log string, output *os.File) string {
	text, _ := os.ReadFile(log)
	last := ""
	for line := range bytes.Lines(text) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && entry.Msg != "" {
			last = entry.Msg
		}
	}
	if last == "" && output != nil {
		printed, _ := os.ReadFile(output.Name())
		last = strings.TrimSpace(string(printed))
	}
	return last
}

func writeJSON(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	temp := path + ".new"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
