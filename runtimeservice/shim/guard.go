package shim

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
)

// An exec'ed process is the shim's child: it does not end with its monitor, as a process ends that the keeper kills when
// its time is over. So each exec's monitor holds a connection to the container's monitor; when that breaks, the process is
// killed. One that has ended is known to the shim no more, and the kill is none.

// guardName is the socket's, in the state directory.
const guardName = "guard"

// guard listens, in the container's monitor.
func (m *monitor) guard() error {
	l, err := inDir(m.state.dir, func(path string) (*net.UnixListener, error) {
		return net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	})
	if err != nil {
		return fmt.Errorf("guard execs: %w", err)
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return
			}
			go m.guardOne(conn)
		}
	}()
	return nil
}

func (m *monitor) guardOne(conn *net.UnixConn) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	exec, err := r.ReadString('\n')
	if err != nil {
		return
	}
	_, _ = r.ReadByte() // until it ends
	err = m.shim.kill(context.Background(), &task.KillRequest{ID: m.ID, ExecID: strings.TrimSpace(exec), Signal: uint32(unix.SIGKILL)})
	if err != nil && !notFound(err) {
		fmt.Fprintln(m.log, "kill an exec without monitor:", err)
	}
}

// guarded connects to the guard, in an exec's monitor. The connection is held for as long as this process lives.
func (m *monitor) guarded() error {
	conn, err := inDir(m.state.dir, func(path string) (*net.UnixConn, error) {
		return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	})
	if err == nil {
		_, err = fmt.Fprintln(conn, m.exec)
	}
	if err != nil {
		return fmt.Errorf("the container's monitor does not answer: %w", err)
	}
	m.held = conn
	return nil
}

// inDir names a socket through the directory's descriptor: a name has at most 108 bytes.
func inDir[T any](dir string, do func(path string) (T, error)) (T, error) {
	d, err := os.Open(dir)
	if err != nil {
		var none T
		return none, err
	}
	defer d.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", d.Fd(), guardName))
}
