package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
)

// Client calls a keeper. It keeps a few idle connections, makes more when calls overlap, and finds a keeper that was
// replaced by itself. Its methods may be called at the same time. The errors wrap ErrNotFound and its siblings; any
// other is a failure of the keeper, or ErrLost.
//
// Files that are passed to a method stay the caller's, who should close them when the method returns: a reader of a
// process's output sees its end only when every writer's copy is closed.
type Client struct {
	path string
	pool pool
}

// pool holds idle connections.
type pool struct {
	mu     sync.Mutex
	idle   []*wire.Conn
	closed bool
}

// maxIdle is how many connections are kept for the next calls.
const maxIdle = 8

// ErrVersion says that the keeper speaks another major version of the protocol.
var ErrVersion = errors.New("keeper speaks another protocol version")

// Dial connects to the keeper at the socket and checks its version.
func Dial(ctx context.Context, path string) (*Client, error) {
	c := &Client{path: path}
	conn, _, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	c.pool.put(conn)
	return c, nil
}

// Close ends all idle connections. Calls that are under way end by themselves.
func (c *Client) Close() error {
	c.pool.close()
	return nil
}

// Hello asks the keeper for its version and pid, on a new connection.
func (c *Client) Hello(ctx context.Context) (Hello, error) {
	conn, hello, err := c.connect(ctx)
	if err != nil {
		return Hello{}, err
	}
	c.pool.put(conn)
	return hello, nil
}

// Create makes a container; its init waits for Start.
func (c *Client) Create(ctx context.Context, req Create) (Started, error) {
	var out Started
	_, err := c.call(ctx, MethodCreate, req, &out)
	return out, wrap("create", req.ID, err)
}

// Start executes the container's program. ErrState when it was started, or killed, already.
func (c *Client) Start(ctx context.Context, id string) (Started, error) {
	var out Started
	_, err := c.call(ctx, MethodStart, Target{ID: id}, &out)
	return out, wrap("start", id, err)
}

// Kill sends a signal. ErrState when the container or exec has exited.
func (c *Client) Kill(ctx context.Context, req Kill) error {
	_, err := c.call(ctx, MethodKill, req, nil)
	return wrap("kill", req.ID, err)
}

// Delete removes a container that has exited. ErrNotFound when there is none.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.call(ctx, MethodDelete, Target{ID: id}, nil)
	return wrap("delete", id, err)
}

// Update changes the resources that are set, and leaves the others.
func (c *Client) Update(ctx context.Context, req Update) error {
	_, err := c.call(ctx, MethodUpdate, req, nil)
	return wrap("update", req.ID, err)
}

// Checkpoint returns when CRIU has written the container, which runs on.
func (c *Client) Checkpoint(ctx context.Context, req Checkpoint) error {
	_, err := c.call(ctx, MethodCheckpoint, req, nil)
	return wrap("checkpoint", req.ID, err)
}

// Exec runs a process. The files are those that req names, in the order stdin, stdout, stderr. With TTY it returns the
// terminal's master, which is the caller's; closing it hangs up. With Wait it returns when the process has exited;
// cancelling ctx leaves the process running: Kill it.
func (c *Client) Exec(ctx context.Context, req Exec, files ...*os.File) (ExecReply, *os.File, error) {
	var out ExecReply
	got, err := c.call(ctx, MethodExec, req, &out, files...)
	if err != nil || len(got) == 0 {
		return out, nil, wrap("exec in", req.ID, err)
	}
	wire.CloseAll(got[1:])
	return out, got[0], nil
}

// Wait returns when the container, or the exec in it, has exited. The keeper remembers only a few of the execs whose exit
// it has told: wait once.
func (c *Client) Wait(ctx context.Context, t Target) (Exit, error) {
	var out Exit
	_, err := c.call(ctx, MethodWait, t, &out)
	return out, wrap("wait for", t.ID, err)
}

// Attach connects the files that req names, in the order stdin, stdout, stderr, to the container's streams and returns
// at once. The keeper makes them non-blocking. It closes its copies when the container exits, or when the other side
// of the file is closed.
func (c *Client) Attach(ctx context.Context, req Attach, files ...*os.File) error {
	_, err := c.call(ctx, MethodAttach, req, nil, files...)
	return wrap("attach to", req.ID, err)
}

// Resize sets the size of a container's, or an exec's, terminal.
func (c *Client) Resize(ctx context.Context, req Resize) error {
	_, err := c.call(ctx, MethodResize, req, nil)
	return wrap("resize", req.ID, err)
}

// ReopenLog goes on in a new file at the container's log path. ErrState when it has exited.
func (c *Client) ReopenLog(ctx context.Context, id string) error {
	_, err := c.call(ctx, MethodReopenLog, Target{ID: id}, nil)
	return wrap("reopen log of", id, err)
}

// List returns all containers.
func (c *Client) List(ctx context.Context) (Listing, error) {
	var out Listing
	_, err := c.call(ctx, MethodList, struct{}{}, &out)
	return out, wrap("list", "containers", err)
}

// Shutdown ends the keeper. ErrState while containers run.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.call(ctx, MethodShutdown, struct{}{}, nil)
	return wrap("shut down", "keeper", err)
}

// Upgrade makes the keeper become the binary, and returns what that says of itself. It goes on with all that it has: its
// clients do not notice. ErrInvalid when the binary cannot take over; after any error all is as before, unless the keeper
// is gone. A keeper of protocol 1.0 knows no upgrade, and says ErrInvalid too.
func (c *Client) Upgrade(ctx context.Context, binary string) (Upgraded, error) {
	var out Upgraded
	file, err := seal(binary)
	if err != nil {
		return out, wrap("upgrade", "keeper", err)
	}
	defer file.Close()
	_, err = c.call(ctx, MethodUpgrade, Upgrade{}, &out, file)
	return out, wrap("upgrade", "keeper", err)
}

// TakeOver is for a client that takes the place of one that was killed: when it returns nothing is under way for that one
// any more, and its execs are killed. Since protocol 1.1.
func (c *Client) TakeOver(ctx context.Context) error {
	_, err := c.call(ctx, MethodTakeOver, TakeOver{}, nil)
	return wrap("take over", "keeper", err)
}

// Events yields the events with a number greater than after, first those of the past, then each as it happens, until
// the context ends or the connection breaks: the last pair then has the error. Go on with the Seq of the last event.
func (c *Client) Events(ctx context.Context, after uint64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if err := follow(ctx, c, after, func(e Event) bool { return yield(e, nil) }); err != nil {
			yield(Event{}, fmt.Errorf("follow events of keeper: %w", err))
		}
	}
}

// follow returns nil when the consumer has stopped.
func follow(ctx context.Context, c *Client, after uint64, each func(Event) bool) error {
	conn, _, err := c.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interrupt(ctx, conn)()
	var reply Reply
	if _, err := exchange(conn, message{method: MethodEvents, body: Since{After: after}}, &reply); err != nil {
		return cause(ctx, err)
	}
	if reply.Code != "" {
		return reply.err()
	}
	for {
		var e Event
		files, err := conn.Receive(&e)
		wire.CloseAll(files)
		if err != nil {
			return cause(ctx, err)
		}
		if !each(e) {
			return nil
		}
	}
}

// call makes one request. A connection that was idle may have died with an earlier keeper: then the request has not
// been received by anyone, and is sent again on a new one.
func (c *Client) call(ctx context.Context, method string, body, out any, files ...*os.File) ([]*os.File, error) {
	conn := c.pool.take()
	for {
		fresh := conn == nil
		if fresh {
			var err error
			if conn, _, err = c.connect(ctx); err != nil {
				return nil, lost(err)
			}
		}
		got, err := c.pool.roundTrip(ctx, conn, message{method, body, files}, out)
		if err == nil {
			return got, nil
		}
		if fresh || !errors.Is(err, syscall.EPIPE) {
			return nil, err
		}
		conn = nil
	}
}

// message is a request before it is encoded.
type message struct {
	method string
	body   any
	files  []*os.File
}

func (p *pool) roundTrip(ctx context.Context, conn *wire.Conn, m message, out any) ([]*os.File, error) {
	stop := interrupt(ctx, conn)
	var reply Reply
	got, err := exchange(conn, m, &reply)
	stop()
	if err != nil {
		conn.Close()
		return nil, lost(cause(ctx, err))
	}
	p.put(conn)
	if reply.Code != "" {
		wire.CloseAll(got)
		return nil, reply.err()
	}
	if out != nil {
		if err := json.Unmarshal(reply.Body, out); err != nil {
			wire.CloseAll(got)
			return nil, fmt.Errorf("reply of keeper: %w", err)
		}
	}
	return got, nil
}

func exchange(conn *wire.Conn, m message, reply *Reply) ([]*os.File, error) {
	text, err := json.Marshal(m.body)
	if err != nil {
		return nil, err
	}
	if err := conn.Send(Request{Method: m.method, Body: text}, m.files...); err != nil {
		return nil, err
	}
	got, err := conn.Receive(reply)
	if errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("keeper closed the connection: %w", io.ErrUnexpectedEOF)
	}
	return got, err
}

// connect makes a new connection and greets.
func (c *Client) connect(ctx context.Context) (*wire.Conn, Hello, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "unix", c.path)
	if err != nil {
		return nil, Hello{}, fmt.Errorf("connect to keeper: %w", err)
	}
	conn := wire.New(raw.(*net.UnixConn))
	stop := interrupt(ctx, conn)
	defer stop()
	var theirs Hello
	err = conn.Send(Hello{Major: VersionMajor, Minor: VersionMinor, Pid: os.Getpid()})
	if err == nil {
		var files []*os.File
		files, err = conn.Receive(&theirs)
		wire.CloseAll(files)
	}
	if err == nil && theirs.Major != VersionMajor {
		err = fmt.Errorf("%w: %d.%d, this client %d.%d", ErrVersion, theirs.Major, theirs.Minor, VersionMajor, VersionMinor)
	}
	if err != nil {
		conn.Close()
		return nil, Hello{}, fmt.Errorf("greet keeper: %w", cause(ctx, err))
	}
	return conn, theirs, nil
}

func (p *pool) take() *wire.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.idle); n > 0 {
		conn := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return conn
	}
	return nil
}

func (p *pool) put(conn *wire.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.idle) >= maxIdle || conn.SetDeadline(time.Time{}) != nil {
		conn.Close()
		return
	}
	p.idle = append(p.idle, conn)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.idle {
		conn.Close()
	}
	p.idle = nil
}

// interrupt makes the connection's reads and writes end with the context, until the returned function is called.
func interrupt(ctx context.Context, conn *wire.Conn) (stop func()) {
	done := make(chan struct{})
	cancel := context.AfterFunc(ctx, func() {
		defer close(done)
		conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !cancel() {
			<-done
		}
	}
}

// lost marks an error of a connection whose other side is gone.
func lost(err error) error {
	for _, gone := range []error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, syscall.ECONNREFUSED, os.ErrNotExist} {
		if errors.Is(err, gone) {
			return fmt.Errorf("%w: %w", ErrLost, err)
		}
	}
	return err
}

// cause prefers the context's error to the time-out that it brought about.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func wrap(verb, what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", verb, what, err)
}
