// Package stdio owns the streams of a container on the keeper's side: it writes the log, feeds attached peers, and
// passes on their input.
//
//	container ──stdout──► fifo ──► reader ─┬─► log file
//	          ──stderr──► fifo ──► reader ─┤
//	          ──terminal─► mover ─► fifo ► reader ┴─► outlets (attached peers)
//	          ◄──stdin─── pipe ◄── inlets (attached peers)
//
// Stdout and stderr are named pipes in the container's directory that the container holds open for reading and
// writing: if the keeper dies, a container that writes waits for the next keeper instead of dying of SIGPIPE, and
// what it wrote stays in the pipe. The names also let any user of the container open /dev/stdout. What has been taken
// out of a pipe is in a spool (spool.go) until it is in the log.
//
// A terminal hangs up, stdin ends, and what an exited container has left in its pipes is gone, when nobody has them open:
// what of them is to outlive the keeper must be held elsewhere too. Ours and Pipes are what to hold; Resume gets Ours back
// and opens the pipes by name.
package stdio

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// Errors of this package.
var (
	ErrNoStream = errors.New("container has no such stream")
	ErrEnded    = errors.New("container has exited")
)

// Config says what streams a container has.
type Config struct {
	Dir       string // of the container, for its named pipes
	LogPath   string // CRI log; "" discards
	TTY       bool
	Stdin     bool
	StdinOnce bool
	Warn      func(error) // called when log lines begin to be lost
	LetGo     func()      // called when stdin is about to end: whoever else holds it must let go. May be nil
}

// Streams are the streams of one container.
type Streams struct {
	cfg   Config
	log   *logFile
	child [3]*os.File // the container's ends, until Begin

	spools map[logs.Stream]*spool

	running sync.WaitGroup

	mu      sync.Mutex
	stdin   *os.File // our end; the terminal's master with TTY
	mover   *mover   // with TTY
	readers []*reader
	outlets map[*outlet]logs.Stream
	inlets  map[*inlet]struct{}
	begun   bool
	ended   bool
}

// Open makes the streams. Either Begin or Finish must follow.
func Open(cfg Config) (*Streams, error) {
	log, err := openLog(cfg.LogPath, cfg.Warn)
	if err != nil {
		return nil, err
	}
	s := newStreams(cfg, log)
	if cfg.TTY {
		err = s.openTerminal()
	} else {
		err = s.openPipes()
	}
	if err != nil {
		s.Finish()
		return nil, err
	}
	return s, nil
}

func newStreams(cfg Config, log *logFile) *Streams {
	return &Streams{
		cfg: cfg, log: log, spools: map[logs.Stream]*spool{},
		outlets: map[*outlet]logs.Stream{}, inlets: map[*inlet]struct{}{},
	}
}

// openTerminal makes the pipe that is between a terminal and its log. Streams without a directory are of nothing.
func (s *Streams) openTerminal() error {
	if s.cfg.Dir == "" {
		return nil
	}
	path := filepath.Join(s.cfg.Dir, string(logs.Stdout))
	if err := makeFifo(path); err != nil {
		return fmt.Errorf("make %s: %w", logs.Stdout, err)
	}
	return s.listen(path, logs.Stdout)
}

func (s *Streams) openPipes() error {
	if s.cfg.Stdin {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
			return fmt.Errorf("make stdin: %w", err)
		}
		s.child[0] = os.NewFile(uintptr(p[0]), "stdin")
		if err := unix.SetNonblock(p[1], true); err != nil {
			unix.Close(p[1])
			return fmt.Errorf("make stdin: %w", err)
		}
		s.stdin = os.NewFile(uintptr(p[1]), "stdin")
	}
	for i, stream := range []logs.Stream{logs.Stdout, logs.Stderr} {
		path := filepath.Join(s.cfg.Dir, string(stream))
		if err := makeFifo(path); err != nil {
			return fmt.Errorf("make %s: %w", stream, err)
		}
		if err := s.listen(path, stream); err != nil {
			return err
		}
		fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", stream, err)
		}
		s.child[i+1] = os.NewFile(uintptr(fd), string(stream))
	}
	return nil
}

// Resume takes the streams of a running container over from a keeper that has died: what it writes to its pipes goes on
// into its log. Ours is what was held of the earlier Streams' Ours; nil when it was lost, and with it the terminal or stdin.
//
// After an upgrade of the keeper there are peers as well.
func Resume(cfg Config, ours *os.File, peers ...Peer) (*Streams, error) {
	log, err := openLog(cfg.LogPath, cfg.Warn)
	if err != nil {
		// The container runs. Its lines are lost until the log can be reopened.
		cfg.Warn(err)
	}
	s := newStreams(cfg, log)
	streams := []logs.Stream{logs.Stdout, logs.Stderr}
	if cfg.TTY {
		streams = streams[:1]
	} else {
		s.stdin, ours = ours, nil
	}
	for _, stream := range streams {
		if err := s.listen(filepath.Join(cfg.Dir, string(stream)), stream); err != nil {
			s.Finish()
			return nil, err
		}
	}
	if err := recoverSpools(s.log, s.spools); err != nil {
		s.Finish()
		return nil, err
	}
	s.log.resume()
	s.Begin(ours, peers...)
	return s, nil
}

// Ours is our end of stdin, or the terminal's master. Nil when there is none.
func (s *Streams) Ours() *os.File {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stdin
}

// Pipes are our ends of stdout and stderr: while somebody has them open, what is in them is kept.
func (s *Streams) Pipes() []*os.File {
	var out []*os.File
	for _, r := range s.readers {
		out = append(out, r.file)
	}
	return out
}

func makeFifo(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mkfifo(path, 0o622); err != nil {
		return err
	}
	return os.Chmod(path, 0o622) // whatever the umask is
}

// listen opens our end of a named pipe.
func (s *Streams) listen(path string, stream logs.Stream) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", stream, err)
	}
	sp, err := openSpool(path + ".spool")
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.spools[stream] = sp
	s.read(os.NewFile(uintptr(fd), path), stream)
	return nil
}

func (s *Streams) read(f *os.File, stream logs.Stream) {
	s.readers = append(s.readers, newReader(f, s.spools[stream], func(chunk []byte) { s.deliver(stream, chunk) }))
}

// Child is what the container's init gets as its streams. All nil with TTY.
func (s *Streams) Child() (stdin, stdout, stderr *os.File) {
	return s.child[0], s.child[1], s.child[2]
}

// Named are the named pipes among the init's streams, by descriptor.
func (c Config) Named() map[int]string {
	if c.TTY {
		return nil
	}
	return map[int]string{1: filepath.Join(c.Dir, string(logs.Stdout)), 2: filepath.Join(c.Dir, string(logs.Stderr))}
}

// Begin starts to copy, when the init holds its ends. The master is that of its terminal, and ours from now on.
func (s *Streams) Begin(master *os.File, peers ...Peer) {
	closeChild(&s.child)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun = true
	if master != nil {
		s.stdin = master
		if m, err := openMover(master, filepath.Join(s.cfg.Dir, string(logs.Stdout))); err == nil {
			s.mover = m
			s.running.Go(m.run)
		} else {
			s.cfg.Warn(fmt.Errorf("terminal is not logged: %w", err))
		}
	}
	for _, r := range s.readers {
		s.running.Go(r.run)
	}
	s.adopt(peers)
}

func closeChild(child *[3]*os.File) {
	closeAll(child[:])
	*child = [3]*os.File{}
}

// deliver is called by one reader at a time per stream.
func (s *Streams) deliver(stream logs.Stream, chunk []byte) {
	s.log.write(stream, chunk, s.spools[stream])
	s.mu.Lock()
	var to []*outlet
	for o, want := range s.outlets {
		if want == stream {
			to = append(to, o)
		}
	}
	s.mu.Unlock()
	for _, o := range to {
		if !o.offer(chunk) {
			s.mu.Lock()
			delete(s.outlets, o)
			s.mu.Unlock()
		}
	}
}

// Attach connects the files that are not nil, which it takes over in any case.
func (s *Streams) Attach(stdin, stdout, stderr *os.File) error {
	files := []*os.File{stdin, stdout, stderr}
	if err := s.cfg.attachable(stdin != nil, stderr != nil); err != nil {
		closeAll(files)
		return err
	}
	for i, f := range files {
		if f == nil {
			continue
		}
		p, err := pollable(f)
		files[i] = p
		if err != nil {
			closeAll(files)
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		closeAll(files)
		return ErrEnded
	}
	s.addOutlet(files[1], logs.Stdout, nil)
	s.addOutlet(files[2], logs.Stderr, nil)
	s.addInlet(files[0], nil)
	return nil
}

func (c Config) attachable(stdin, stderr bool) error {
	if stdin && !c.Stdin {
		return fmt.Errorf("%w: stdin was not asked for when it was created", ErrNoStream)
	}
	if stderr && c.TTY {
		return fmt.Errorf("%w: a terminal has no stderr", ErrNoStream)
	}
	return nil
}

// addOutlet is called with the lock held.
func (s *Streams) addOutlet(f *os.File, stream logs.Stream, rest []byte) {
	if f == nil {
		return
	}
	o := newOutlet(f, rest)
	s.outlets[o] = stream
	s.running.Go(func() {
		o.run()
		s.mu.Lock()
		delete(s.outlets, o)
		s.mu.Unlock()
	})
}

// Resize sets the size of the container's terminal.
func (s *Streams) Resize(width, height uint16) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.cfg.TTY || s.stdin == nil {
		return fmt.Errorf("%w: no terminal", ErrNoStream)
	}
	return SetSize(s.stdin, width, height)
}

// SetSize sets the size of a terminal, given either of its sides.
func SetSize(f *os.File, width, height uint16) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var setErr error
	if err := raw.Control(func(fd uintptr) {
		setErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: width, Row: height})
	}); err != nil {
		return err
	}
	if setErr != nil {
		return fmt.Errorf("resize terminal: %w", setErr)
	}
	return nil
}

// Reopen goes on in a new log file at the same path.
func (s *Streams) Reopen() error {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if ended {
		return ErrEnded
	}
	return s.log.reopen()
}

// Finish is called when the init has exited. When it returns, all that the init wrote is in the log, and attached
// peers get the rest and the end of their streams.
func (s *Streams) Finish() {
	closeChild(&s.child)
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended = true
	readers, begun, mover := s.readers, s.begun, s.mover
	s.mu.Unlock()
	if mover != nil {
		mover.finish()
	}
	for _, r := range readers {
		if begun {
			r.finish()
		} else {
			r.file.Close()
		}
	}
	s.log.end(logs.Stdout)
	s.log.end(logs.Stderr)
	s.log.close()
	for _, sp := range s.spools {
		sp.file.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range s.outlets {
		o.end()
	}
	for in := range s.inlets {
		_ = in.file.SetReadDeadline(time.Unix(1, 0))
	}
	if s.stdin != nil {
		s.stdin.Close()
		s.stdin = nil
	}
}

// Wait returns when all copying has stopped, soon after Finish.
func (s *Streams) Wait() {
	s.running.Wait()
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
