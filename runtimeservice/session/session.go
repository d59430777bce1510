package session

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Exec implements runtimeservice.Processes.
func (p *Sessions) Exec(ctx context.Context, id string, argv []string, s runtimeservice.Streams) (int, error) {
	c, err := p.Runtime.Running(id)
	if err != nil {
		return 0, err
	}
	req, err := request(c, argv, s.TTY)
	if err != nil {
		return 0, err
	}
	kept, err := p.Runtime.Keeper()
	if err != nil {
		return 0, err
	}
	var exit keeper.Exit
	if s.TTY {
		exit, err = execTerminal(ctx, kept, req, s)
	} else {
		exit, err = execPipes(ctx, kept, req, s)
	}
	return exit.Code, err
}

// execPipes connects a process to streams by pipes.
func execPipes(ctx context.Context, kept Keeper, req keeper.Exec, s runtimeservice.Streams) (keeper.Exit, error) {
	w := &wires{}
	defer w.close()
	if err := w.connect(s); err != nil {
		return keeper.Exit{}, err
	}
	req.Stdin, req.Stdout, req.Stderr = s.Stdin != nil, s.Stdout != nil, s.Stderr != nil
	_, _, err := kept.Exec(ctx, req, w.theirs...)
	w.handOver()
	if err != nil {
		return keeper.Exit{}, err
	}
	exit, err := await(ctx, kept, req.Target)
	w.finish(drain)
	return exit, err
}

// await waits for the end of an exec, and kills it when its client has left.
func await(ctx context.Context, kept Keeper, t keeper.Target) (keeper.Exit, error) {
	exit, err := kept.Wait(ctx, t)
	if err != nil && ctx.Err() != nil {
		killExec(context.WithoutCancel(ctx), kept, t)
	}
	return exit, err
}

// execTerminal copies between the streams and the terminal's master.
func execTerminal(ctx context.Context, kept Keeper, req keeper.Exec, s runtimeservice.Streams) (keeper.Exit, error) {
	_, master, err := kept.Exec(ctx, req)
	if err != nil {
		return keeper.Exit{}, err
	}
	if master == nil {
		return keeper.Exit{}, errors.New("the keeper passed no terminal")
	}
	var group sync.WaitGroup
	output := make(chan struct{})
	group.Go(func() {
		defer close(output)
		if s.Stdout != nil {
			_, _ = io.Copy(s.Stdout, master)
			_ = master.Close() // the process has closed its terminal, or the client has left: hang up
		}
	})
	if s.Stdin != nil {
		go func() { _, _ = io.Copy(master, s.Stdin) }() // ends with the client's connection, or at the next byte
	}
	stopResize := resize(ctx, kept, req.Target, s.Resize)
	exit, err := kept.Wait(ctx, req.Target)
	select {
	case <-output:
	case <-time.After(drain):
	}
	_ = master.Close() // hangs up: what still runs in the session gets SIGHUP
	stopResize()
	group.Wait()
	return exit, err
}

// resize passes sizes on until stopped.
func resize(ctx context.Context, kept Keeper, t keeper.Target, sizes <-chan runtimeservice.TerminalSize) (stop func()) {
	if sizes == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case size, ok := <-sizes:
				if !ok {
					return
				}
				_ = kept.Resize(ctx, keeper.Resize{Target: t, Width: size.Width, Height: size.Height})
			}
		}
	})
	return func() { cancel(); group.Wait() }
}

// Attach implements runtimeservice.Processes.
func (p *Sessions) Attach(ctx context.Context, id string, s runtimeservice.Streams) error {
	c, err := p.Runtime.Running(id)
	if err != nil {
		return err
	}
	kept, err := p.Runtime.Keeper()
	if err != nil {
		return err
	}
	target := keeper.Target{ID: c.ID}
	if s.Stdin != nil && !c.Stdin {
		s.Stdin = nil // the container has none
	}
	if c.TTY {
		s.Stderr = nil
	}
	w := &wires{}
	defer w.close()
	if err := w.connect(s); err != nil {
		return err
	}
	err = kept.Attach(ctx, keeper.Attach{
		ID: c.ID, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil,
	}, w.theirs...)
	w.handOver()
	if err != nil {
		return err
	}
	defer resize(ctx, kept, target, s.Resize)()
	w.await(ctx, c.Ended)
	return nil
}

// wires are the pipes between streams and a process: ours are copied from and to the streams, theirs go to the keeper.
type wires struct {
	theirs []*os.File
	ours   []*os.File
	output sync.WaitGroup
}

func (w *wires) connect(s runtimeservice.Streams) error {
	if s.Stdin != nil {
		ours, theirs, err := writePipe()
		if err != nil {
			return err
		}
		w.add(ours, theirs)
		go func() { // a client that sends nothing more may hold this until its connection ends
			_, _ = io.Copy(ours, s.Stdin)
			_ = ours.Close()
		}()
	}
	for _, stream := range []io.WriteCloser{s.Stdout, s.Stderr} {
		if stream == nil {
			continue
		}
		ours, theirs, err := readPipe()
		if err != nil {
			return err
		}
		w.add(ours, theirs)
		w.output.Go(func() {
			_, _ = io.Copy(stream, ours)
			_ = ours.Close() // when the client has left, the process learns it by SIGPIPE
		})
	}
	return nil
}

func (w *wires) add(ours, theirs *os.File) {
	w.ours, w.theirs = append(w.ours, ours), append(w.theirs, theirs)
}

// handOver closes our copies of the far ends: the end of a stream is only seen when the last copy is closed.
func (w *wires) handOver() {
	for _, f := range w.theirs {
		_ = f.Close()
	}
	w.theirs = nil
}

// outputEnd is closed when all output has been copied.
func (w *wires) outputEnd() <-chan struct{} {
	done := make(chan struct{})
	go func() { w.output.Wait(); close(done) }()
	return done
}

// finish waits for the rest of the output, at most for patience.
func (w *wires) finish(patience time.Duration) {
	select {
	case <-w.outputEnd():
	case <-time.After(patience):
	}
}

// await waits until the output or the container has ended, or the client has left.
func (w *wires) await(ctx context.Context, ended <-chan struct{}) {
	if len(w.ours) == 0 {
		return
	}
	select {
	case <-w.outputEnd():
	case <-ended:
		w.finish(drain)
	case <-ctx.Done():
	}
}

func (w *wires) close() {
	w.handOver()
	for _, f := range w.ours {
		_ = f.Close()
	}
	w.output.Wait()
}
