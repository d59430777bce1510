package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// monitorArg is the argument with which this binary executes itself as a monitor.
const monitorArg = "monitor"

// What a monitor stands for.
const (
	kindInit = "init"
	kindExec = "exec"
)

// request is what a monitor is told, on descriptor 3.
type request struct {
	Kind    string
	ID      string
	Root    string
	Console string // unix socket that the terminal's master is sent to; "" is no terminal
	// Of an init.
	Binary, Config, Bundle string
	Systemd                bool
	// Of an exec: file of the OCI process.
	Process string
}

// spawnMonitor starts a monitor with this process's streams and returns when what it stands for is made. The monitor
// outlives us: the keeper, as child subreaper, becomes its parent.
func spawnMonitor(ctx context.Context, req request, pidFile string) error {
	text, err := json.Marshal(req)
	if err != nil {
		return err
	}
	theirs, orders, err := os.Pipe()
	if err != nil {
		return err
	}
	answer, answers, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", monitorArg)
	cmd.Args[0] = "skiff-shim"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{theirs, answers}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the monitor: %w", err)
	}
	theirs.Close()
	answers.Close()
	if _, err := orders.Write(text); err != nil {
		return fmt.Errorf("start the monitor: %w", err)
	}
	orders.Close()
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
	defer stop()
	said, err := io.ReadAll(answer)
	if err == nil && string(said) != "ok" {
		err = errors.New(string(said))
		if len(said) == 0 {
			err = errors.New("the monitor died")
		}
	}
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return err
	}
	return os.WriteFile(pidFile, []byte(strconv.Itoa(cmd.Process.Pid)), 0o600)
}

// monitor stands for one process of a container: its init or an exec.
type monitor struct {
	request
	exec    string // "" for the init
	shim    *client
	state   state
	streams *streams
	term    *terminal
	log     *os.File
	held    net.Conn // to the guard
}

// unknownCode is what a monitor ends with when it cannot learn the code.
const unknownCode = 255

func monitorMain() int {
	// What is written when nobody reads is lost, and no reason to die.
	signal.Ignore(unix.SIGPIPE)
	orders, answer := os.NewFile(3, "orders"), os.NewFile(4, "answer")
	unix.CloseOnExec(3)
	unix.CloseOnExec(4)
	m := &monitor{}
	err := json.NewDecoder(orders).Decode(&m.request)
	orders.Close()
	if err == nil {
		err = m.make(context.Background())
	}
	if err != nil {
		fmt.Fprint(answer, err)
		return 1
	}
	fmt.Fprint(answer, "ok")
	answer.Close()
	return m.watch(context.Background())
}

func (m *monitor) make(ctx context.Context) error {
	if m.Kind == kindExec {
		return m.makeExec(ctx)
	}
	err := m.makeInit(ctx)
	if err != nil {
		err = errors.Join(err, os.RemoveAll(m.state.dir))
	}
	return err
}

// makeInit creates the container, with a shim of its own or its sandbox's. On failure nothing is left.
func (m *monitor) makeInit(ctx context.Context) error {
	m.state = state{ID: m.ID, Bundle: m.Bundle, Binary: m.Binary, Monitor: os.Getpid(), dir: filepath.Join(m.Root, m.ID)}
	if err := os.MkdirAll(m.state.dir, 0o711); err != nil {
		return err
	}
	var err error
	if m.log, err = os.OpenFile(filepath.Join(m.state.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	spec, err := m.readSpec()
	if err != nil {
		return err
	}
	if err := m.open("init"); err != nil {
		return err
	}
	l := launch{binary: m.Binary, id: m.ID, bundle: m.Bundle, config: m.Config, systemd: m.Systemd}
	if err := m.findShim(ctx, l, spec); err != nil {
		return err
	}
	options, err := l.optionsAny()
	if err != nil {
		return err
	}
	m.state.Pid, err = m.shim.create(ctx, &task.CreateTaskRequest{
		ID: m.ID, Bundle: m.Bundle, Terminal: m.term != nil, Options: options,
		Stdin: m.streams.Stdin, Stdout: m.streams.Stdout, Stderr: m.streams.Stderr,
	})
	if err == nil {
		err = m.state.save()
	}
	if err == nil {
		err = m.guard()
	}
	if err != nil && m.state.StartedBy {
		return errors.Join(err, m.shim.shutdown(ctx, m.ID))
	}
	return err
}

// readSpec reads config.json, and writes it back with the namespaces that are really meant.
func (m *monitor) readSpec() (*specs.Spec, error) {
	path := filepath.Join(m.Bundle, "config.json")
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{}
	if err := json.Unmarshal(text, spec); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if err := realNamespaces(m.Root, spec); err != nil {
		return nil, err
	}
	if text, err = json.Marshal(spec); err != nil {
		return nil, err
	}
	return spec, os.WriteFile(path, text, 0o600)
}

// findShim connects to the sandbox's shim, or starts one.
func (m *monitor) findShim(ctx context.Context, l launch, spec *specs.Spec) error {
	box, err := loadState(m.Root, sandboxOf(m.ID, spec))
	switch {
	case sandboxOf(m.ID, spec) == "":
		if l.events, err = serveEvents(m.state.dir, m.log); err != nil {
			return err
		}
		if m.state.Shim, err = l.start(ctx, m.log); err != nil {
			return err
		}
		m.state.StartedBy = true
	case err != nil:
		return fmt.Errorf("find the shim of the sandbox: %w", err)
	default:
		m.state.Shim = box.Shim
	}
	m.shim, err = connect(ctx, m.state.Shim)
	return err
}

// open connects this process's streams, or a new terminal, with pipes for the shim.
func (m *monitor) open(name string) error {
	e := ends{in: present(os.Stdin), out: os.Stdout, err: os.Stderr}
	if m.Console != "" {
		var err error
		if m.term, err = openTerminal(m.Console); err != nil {
			return err
		}
		e = ends{in: m.term.slave, out: m.term.slave}
	}
	dir := filepath.Join(m.state.dir, name)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var err error
	m.streams, err = openStreams(dir, e)
	return err
}

// present is the file, or nothing when it is /dev/null.
func present(f *os.File) io.Reader {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || (st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)) {
		return nil
	}
	return f
}

// makeExec executes a process in the container.
func (m *monitor) makeExec(ctx context.Context) error {
	process, err := os.ReadFile(m.Process)
	if err != nil {
		return err
	}
	if m.state, err = loadState(m.Root, m.ID); err != nil {
		return err
	}
	m.exec = "exec-" + strconv.Itoa(os.Getpid())
	if m.log, err = os.OpenFile(filepath.Join(m.state.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return err
	}
	if err := m.open(m.exec); err != nil {
		return err
	}
	if m.shim, err = connect(ctx, m.state.Shim); err != nil {
		return errors.Join(err, m.streams.remove())
	}
	if err := m.guarded(); err != nil {
		return errors.Join(err, m.streams.remove())
	}
	err = m.shim.exec(ctx, &task.ExecProcessRequest{
		ID: m.ID, ExecID: m.exec, Terminal: m.term != nil, Spec: oci("Process", process),
		Stdin: m.streams.Stdin, Stdout: m.streams.Stdout, Stderr: m.streams.Stderr,
	})
	if err == nil {
		if _, err = m.shim.start(ctx, m.ID, m.exec); err != nil {
			err = errors.Join(err, m.shim.delete(ctx, m.ID, m.exec))
		}
	}
	if err != nil {
		return errors.Join(err, m.streams.remove())
	}
	return nil
}

// drainLimit is how long output is awaited after the end: the process's children may hold the pipes for ever.
const drainLimit = 2 * time.Second

// watch waits for the end, passing on signals and sizes meanwhile, and returns the exit code.
func (m *monitor) watch(ctx context.Context) int {
	if m.streams.stdin != nil {
		go m.endInput(ctx)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	go m.passOn(ctx, signals)
	if m.term != nil {
		m.resize(ctx)
	}
	code, err := m.shim.wait(ctx, m.ID, m.exec)
	if gone(err) {
		code, err = m.shimDied(ctx)
	}
	if err != nil {
		fmt.Fprintln(m.log, "wait:", err)
		code = unknownCode
	}
	m.streams.drain(drainLimit)
	if m.exec != "" {
		if err := m.shim.delete(ctx, m.ID, m.exec); err != nil && !notFound(err) && !gone(err) {
			fmt.Fprintln(m.log, err)
		}
	}
	if err := m.streams.remove(); err != nil {
		fmt.Fprintln(m.log, err)
	}
	return code
}

// endInput tells the shim that there is no more input.
func (m *monitor) endInput(ctx context.Context) {
	<-m.streams.inputEnd
	m.streams.stdin.Close()
	if err := m.shim.closeStdin(ctx, m.ID, m.exec); err != nil && !notFound(err) {
		fmt.Fprintln(m.log, err)
	}
}

// passOn gives signals to the process. A terminal that is resized or hung up comes as a signal too.
func (m *monitor) passOn(ctx context.Context, signals <-chan os.Signal) {
	for s := range signals {
		number, ok := s.(syscall.Signal)
		if !ok {
			continue
		}
		if number == unix.SIGWINCH && m.term != nil {
			m.resize(ctx)
			continue
		}
		if err := m.shim.kill(ctx, &task.KillRequest{ID: m.ID, ExecID: m.exec, Signal: uint32(number)}); err != nil && !notFound(err) {
			fmt.Fprintln(m.log, err)
		}
	}
}

func (m *monitor) resize(ctx context.Context) {
	width, height, err := m.term.size()
	if err == nil && width != 0 && height != 0 {
		err = m.shim.resize(ctx, m.ID, m.exec, width, height)
	}
	if err != nil && !notFound(err) {
		fmt.Fprintln(m.log, err)
	}
}

// shimDied cleans up after a shim that is gone, which takes the container's processes along.
func (m *monitor) shimDied(ctx context.Context) (int, error) {
	if m.exec != "" {
		return unknownCode, nil
	}
	fmt.Fprintln(m.log, "the shim is gone")
	return 128 + int(unix.SIGKILL), launch{binary: m.state.Binary, id: m.ID, bundle: m.state.Bundle}.clean(ctx)
}
