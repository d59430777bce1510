// Package session reaches into running containers and sandboxes: exec, attach and port-forward. The keeper owns the
// processes; here are the pipes and terminals between them and the clients' streams.
package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
)

// Keeper is what sessions need of the keeper's client.
type Keeper interface {
	Exec(ctx context.Context, req keeper.Exec, files ...*os.File) (keeper.ExecReply, *os.File, error)
	Wait(ctx context.Context, t keeper.Target) (keeper.Exit, error)
	Kill(ctx context.Context, req keeper.Kill) error
	Attach(ctx context.Context, req keeper.Attach, files ...*os.File) error
	Resize(ctx context.Context, req keeper.Resize) error
}

// Container is what a session needs to know of a running container.
type Container struct {
	ID         string
	Process    *specs.Process // its own process, the model for others
	Stdin, TTY bool
	Ended      <-chan struct{}
}

// Runtime finds what sessions are in.
type Runtime interface {
	// Running finds a container and refuses one that does not run.
	Running(id string) (Container, error)
	// NetworkOf is the path of the network namespace of a sandbox that is ready, "" for the host's.
	NetworkOf(sandboxID string) (string, error)
	// Keeper is the present connection to the keeper.
	Keeper() (Keeper, error)
}

// Sessions implements runtimeservice.Processes.
type Sessions struct{ Runtime Runtime }

// request makes the keeper's request to run argv as the container's own process would run.
func request(c Container, argv []string, tty bool) (keeper.Exec, error) {
	process := *c.Process
	process.Args, process.Terminal, process.ConsoleSize = argv, tty, nil
	if tty {
		process.Env = append(slices.Clone(process.Env), "TERM=xterm")
	}
	text, err := json.Marshal(process)
	if err != nil {
		return keeper.Exec{}, fmt.Errorf("encode the process: %w", err)
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	return keeper.Exec{Target: keeper.Target{ID: c.ID, ExecID: "exec-" + hex.EncodeToString(raw[:])}, Process: text, TTY: tty}, nil
}

// ExecSync implements runtimeservice.Processes.
func (p *Sessions) ExecSync(ctx context.Context, id string, argv []string, timeout time.Duration) (runtimeservice.ExecResult, error) {
	result := runtimeservice.ExecResult{}
	c, err := p.Runtime.Running(id)
	if err != nil {
		return result, err
	}
	req, err := request(c, argv, false)
	if err != nil {
		return result, err
	}
	req.Stdout, req.Stderr, req.Wait = true, true, true
	stdout, err := collect()
	if err != nil {
		return result, err
	}
	defer stdout.close()
	stderr, err := collect()
	if err != nil {
		return result, err
	}
	defer stderr.close()
	exit, err := p.execWait(ctx, req, timeout, stdout.theirs, stderr.theirs)
	if err != nil {
		return result, err
	}
	result.ExitCode = exit.Code
	result.Stdout, result.Stderr = stdout.wait(), stderr.wait()
	return result, nil
}

// execWait runs a process to its end. When the time is over or the caller leaves, it is killed with all it started
// in its session, and the keeper's answer still awaited, so that nothing of it is left.
func (p *Sessions) execWait(ctx context.Context, req keeper.Exec, timeout time.Duration, files ...*os.File) (keeper.Exit, error) {
	kept, err := p.Runtime.Keeper()
	if err != nil {
		return keeper.Exit{}, err
	}
	limited := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	type answer struct {
		reply keeper.ExecReply
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		reply, _, err := kept.Exec(context.WithoutCancel(ctx), req, files...)
		for _, f := range files {
			_ = f.Close()
		}
		done <- answer{reply, err}
	}()
	select {
	case a := <-done:
		if a.err == nil && a.reply.Exit == nil {
			a.err = errors.New("the keeper did not say how the process ended")
		}
		if a.err != nil {
			return keeper.Exit{}, a.err
		}
		return *a.reply.Exit, nil
	case <-limited.Done():
	}
	killExec(context.WithoutCancel(ctx), kept, req.Target)
	<-done
	if ctx.Err() != nil {
		return keeper.Exit{}, fmt.Errorf("exec in %s: %w", req.ID, ctx.Err())
	}
	return keeper.Exit{}, fmt.Errorf("command did not end within %s: %w", timeout, runtimeservice.ErrTimeout)
}

// killExec tries until the process is there to be killed: the time may be over while it is being made.
func killExec(ctx context.Context, kept Keeper, t keeper.Target) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		err := kept.Kill(ctx, keeper.Kill{Target: t, Signal: 9, All: true})
		if !errors.Is(err, keeper.ErrNotFound) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// collector reads one output stream of a process into memory.
type collector struct {
	ours, theirs *os.File
	done         chan struct{}
	data         []byte
}

// drain is how long output is awaited after the process has ended: its children may keep the pipe open for ever.
const drain = 2 * time.Second

func collect() (*collector, error) {
	ours, theirs, err := readPipe()
	if err != nil {
		return nil, err
	}
	c := &collector{ours: ours, theirs: theirs, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.data, _ = io.ReadAll(io.LimitReader(ours, runtimeservice.MaxExecOutput))
		_, _ = io.Copy(io.Discard, ours)
	}()
	return c, nil
}

func (c *collector) wait() []byte {
	_ = c.ours.SetReadDeadline(time.Now().Add(drain))
	<-c.done
	return c.data
}

func (c *collector) close() {
	_ = c.ours.Close()
	_ = c.theirs.Close()
	<-c.done
}

// readPipe and writePipe make a pipe whose far end blocks, as programs expect it, while ours can be waited on.
func readPipe() (ours, theirs *os.File, err error)  { return pipe(0) }
func writePipe() (ours, theirs *os.File, err error) { return pipe(1) }

func pipe(our int) (ours, theirs *os.File, err error) {
	fds := make([]int, 2)
	if err := unix.Pipe2(fds, unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	if err := unix.SetNonblock(fds[our], true); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("make a pipe: %w", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[our]), "pipe"), os.NewFile(uintptr(fds[1-our]), "pipe"), nil
}

// PortForward implements runtimeservice.Processes. The connection is made from inside the sandbox's network.
func (p *Sessions) PortForward(ctx context.Context, sandboxID string, port uint16, rw io.ReadWriteCloser) error {
	netns, err := p.Runtime.NetworkOf(sandboxID)
	if err != nil {
		return err
	}
	conn, err := dial(ctx, netns, port)
	if err != nil {
		return fmt.Errorf("connect to port %d of sandbox %s: %w", port, sandboxID, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	return splice(conn, rw)
}

func dial(ctx context.Context, netns string, port uint16) (conn net.Conn, err error) {
	connect := func() error {
		var dialer net.Dialer
		for _, host := range []string{"127.0.0.1", "::1"} {
			if conn, err = dialer.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port)))); err == nil {
				return nil
			}
		}
		return err
	}
	if netns == "" {
		return conn, connect()
	}
	// The socket is made on the thread that calls, which is in the namespace: a literal address needs no other one.
	return conn, namespace.Do(netns, connect)
}

// splice copies both ways until both are at their end, or the sandbox's side has closed.
func splice(conn net.Conn, rw io.ReadWriteCloser) error {
	var group sync.WaitGroup
	group.Go(func() {
		_, _ = io.Copy(conn, rw)
		if half, ok := conn.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	})
	_, err := io.Copy(rw, conn)
	err = errors.Join(err, rw.Close(), conn.Close())
	group.Wait()
	return err
}
