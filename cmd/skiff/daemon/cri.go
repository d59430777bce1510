package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CRI keeps one CRI server alive: it adopts the one that answers on the socket, and starts one where none does or
// where it died. It never stops one: containers outlive the server, and `skiff down` ends them.
type CRI struct {
	Socket string   // path of the CRI socket
	Argv   []string // command of the CRI server
	Log    string   // file that gets its output
}

// errGone says that the watched process ended.
var errGone = errors.New("the CRI server ended")

// Run is the Start of the component "cri".
func (c CRI) Run(ctx context.Context, ready func(string)) error {
	delay := 100 * time.Millisecond
	for {
		began := time.Now()
		err := c.once(ctx, ready)
		if ctx.Err() != nil {
			return nil
		}
		if !errors.Is(err, errGone) {
			return err
		}
		slog.Warn("restart the CRI server", "cause", err, "after", delay)
		if time.Since(began) > time.Minute {
			delay = 100 * time.Millisecond
		}
		select {
		case <-time.After(delay):
			delay = min(2*delay, 10*time.Second)
		case <-ctx.Done():
			return nil
		}
	}
}

// once adopts or starts the CRI server, reports it ready and waits for its end.
func (c CRI) once(ctx context.Context, ready func(string)) error {
	if pid, version, err := Peer(ctx, c.Socket); err == nil {
		ready(fmt.Sprintf("%s, adopted", version))
		return waitGone(ctx, pid)
	}
	cmd, err := c.start()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	version, err := c.await(ctx, ended)
	if err != nil {
		return err
	}
	ready(version)
	select {
	case err := <-ended:
		return fmt.Errorf("%w: %v", errGone, err)
	case <-ctx.Done():
		return nil
	}
}

func (c CRI) start() (*exec.Cmd, error) {
	log, err := os.OpenFile(c.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open the CRI server's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(c.Argv[0], c.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the CRI server: %w", err)
	}
	return cmd, nil
}

// await asks the socket until it answers, the process ends, or half a minute is over.
func (c CRI) await(ctx context.Context, ended <-chan error) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, version, err := Peer(ctx, c.Socket); err == nil {
			return version, nil
		}
		select {
		case err := <-ended:
			return "", fmt.Errorf("the CRI server did not start: %v: %s", err, lastLine(c.Log))
		case <-ctx.Done():
			return "", fmt.Errorf("the CRI server did not answer on %s: %w", c.Socket, ctx.Err())
		case <-tick.C:
		}
	}
}

// Peer asks the CRI server on a socket for its name and version, and the kernel for its pid.
func Peer(ctx context.Context, socket string) (pid int, version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	pid, err = PeerPid(socket)
	if err != nil {
		return 0, "", err
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	v, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		return 0, "", fmt.Errorf("ask %s for its version: %w", socket, err)
	}
	return pid, fmt.Sprintf("%s %s, pid %d", v.RuntimeName, v.RuntimeVersion, pid), nil
}

// PeerPid is the process that listens on a unix socket (SO_PEERCRED).
func PeerPid(socket string) (int, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var serr error
	if err := raw.Control(func(fd uintptr) { cred, serr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return 0, err
	}
	if serr != nil {
		return 0, serr
	}
	return int(cred.Pid), nil
}

// waitGone waits until a process that is not our child ends.
func waitGone(ctx context.Context, pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("%w: pid %d: %v", errGone, pid, err)
	}
	defer unix.Close(fd)
	var wake [2]int
	if err := unix.Pipe2(wake[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer unix.Close(wake[0])
	stop := context.AfterFunc(ctx, func() { unix.Close(wake[1]) })
	defer func() {
		if stop() {
			unix.Close(wake[1])
		}
	}()
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(wake[0]), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != unix.EINTR {
			return fmt.Errorf("%w: pid %d", errGone, pid)
		}
	}
}

// lastLine is the end of a log file, for an error message.
func lastLine(file string) string {
	raw, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	raw = raw[max(0, len(raw)-2048):]
	lines := splitLines(string(raw))
	if len(lines) == 0 {
		return ""
	}
	return lines[len(lines)-1]
}
