package oci

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// consoleSocket receives the master of a terminal that a container's init made inside the container.
type consoleSocket struct {
	parent, child *os.File
}

func newConsoleSocket() (*consoleSocket, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make console socket: %w", err)
	}
	return &consoleSocket{
		parent: os.NewFile(uintptr(fds[0]), "console-parent"),
		child:  os.NewFile(uintptr(fds[1]), "console-child"),
	}, nil
}

// receive is called when the sender is known to have sent, or to have died: the child's end is closed first.
func (c *consoleSocket) receive() (*os.File, error) {
	c.child.Close()
	return receiveConsole(int(c.parent.Fd()))
}

func (c *consoleSocket) close() {
	c.parent.Close()
	c.child.Close()
}

func receiveConsole(socket int) (*os.File, error) {
	name := make([]byte, 4096)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		_, oobn, _, _, err := unix.Recvmsg(socket, name, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive terminal: %w", err)
		}
		oob = oob[:oobn]
		break
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("receive terminal: no file descriptor came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("receive terminal: no file descriptor came")
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		unix.Close(fds[0])
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "console"), nil
}
