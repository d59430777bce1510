// Package wire carries the frames of the keeper's protocol over a unix stream socket: a length, JSON of that
// length, and file descriptors that ride on the first byte. It knows nothing of what the frames mean.
package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of one frame. An OCI specification with a large seccomp profile is below 1 MiB.
const (
	MaxFrame = 16 << 20
	MaxFiles = 16
)

// ErrFrame says that the peer does not speak the protocol; the connection is of no more use.
var ErrFrame = errors.New("malformed frame")

// Conn is one connection. Its methods may be used by one goroutine at a time in each direction.
type Conn struct {
	unix *net.UnixConn
}

// New makes a Conn of a connected socket, which it then owns.
func New(c *net.UnixConn) *Conn {
	return &Conn{unix: c}
}

// Close ends the connection.
func (c *Conn) Close() error {
	return c.unix.Close()
}

// SetDeadline bounds all reads and writes, also those under way; the zero time means no bound.
func (c *Conn) SetDeadline(t time.Time) error {
	return c.unix.SetDeadline(t)
}

// AwaitInput waits until there is something to receive, or the peer has closed, and takes nothing. A read deadline ends it.
func (c *Conn) AwaitInput() error {
	raw, err := c.unix.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0
	})
}

// SetReadDeadline bounds reads only, also those under way.
func (c *Conn) SetReadDeadline(t time.Time) error {
	return c.unix.SetReadDeadline(t)
}

// SetWriteDeadline bounds writes only.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	return c.unix.SetWriteDeadline(t)
}

// Number is the connection's file descriptor, which stays the connection's.
func (c *Conn) Number() (int, error) {
	raw, err := c.unix.SyscallConn()
	if err != nil {
		return -1, err
	}
	number := -1
	err = raw.Control(func(fd uintptr) { number = int(fd) })
	return number, err
}

// PeerUID is the user that connected.
func (c *Conn) PeerUID() (uint32, error) {
	raw, err := c.unix.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, fmt.Errorf("read peer credentials: %w", credErr)
	}
	return cred.Uid, nil
}

// Send writes one frame. The files stay the caller's.
func (c *Conn) Send(v any, files ...*os.File) error {
	frame, err := Encode(v)
	if err != nil {
		return err
	}
	rights, err := encodeRights(files)
	if err != nil {
		return err
	}
	n, _, err := c.unix.WriteMsgUnix(frame, rights, nil)
	if err != nil {
		return err
	}
	if n < len(frame) { // the kernel took the descriptors with the first part
		_, err = c.unix.Write(frame[n:])
	}
	return err
}

// Receive reads one frame into v. The files that came with it are the caller's, and close-on-exec. It returns
// io.EOF when the peer closed the connection between two frames.
func (c *Conn) Receive(v any) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			CloseAll(files)
			files = nil
		}
	}()
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4*MaxFiles))
	n, oobn, flags, _, err := c.unix.ReadMsgUnix(head[:], oob)
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	if files, err = decodeRights(oob[:oobn]); err != nil {
		return files, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return files, fmt.Errorf("%w: more than %d file descriptors", ErrFrame, MaxFiles)
	}
	if n == 0 {
		return files, io.EOF
	}
	if _, err := io.ReadFull(c.unix, head[n:]); err != nil {
		return files, unexpected(err)
	}
	return files, decodeBody(c.unix, head, v)
}

// Encode is v as a frame.
func Encode(v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > MaxFrame {
		return nil, fmt.Errorf("message of %d bytes: the protocol carries at most %d", len(body), MaxFrame)
	}
	frame := make([]byte, 4, 4+len(body))
	binary.BigEndian.PutUint32(frame, uint32(len(body)))
	return append(frame, body...), nil
}

// Decode reads one frame, without file descriptors, into v.
func Decode(r io.Reader, v any) error {
	var head [4]byte
	if n, err := io.ReadFull(r, head[:]); err != nil {
		if n == 0 {
			return err
		}
		return unexpected(err)
	}
	return decodeBody(r, head, v)
}

func decodeBody(r io.Reader, head [4]byte, v any) error {
	size := binary.BigEndian.Uint32(head[:])
	if size > MaxFrame {
		return fmt.Errorf("%w: length %d, at most %d", ErrFrame, size, MaxFrame)
	}
	// The claimed length is not trusted with an allocation: the buffer grows with what really arrives.
	var body bytes.Buffer
	body.Grow(int(min(size, 64<<10)))
	if n, err := body.ReadFrom(io.LimitReader(r, int64(size))); err != nil {
		return err
	} else if n < int64(size) {
		return fmt.Errorf("%w: %w", ErrFrame, io.ErrUnexpectedEOF)
	}
	if err := json.Unmarshal(body.Bytes(), v); err != nil {
		return fmt.Errorf("%w: %w", ErrFrame, err)
	}
	return nil
}

// CloseAll closes files, nil ones too.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// encodeRights takes the descriptors without os.File.Fd, which would make the description blocking.
func encodeRights(files []*os.File) ([]byte, error) {
	if len(files) == 0 {
		return nil, nil
	}
	if len(files) > MaxFiles {
		return nil, fmt.Errorf("%d file descriptors: a frame carries at most %d", len(files), MaxFiles)
	}
	fds := make([]int, len(files))
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			return nil, fmt.Errorf("pass file descriptor %s: %w", f.Name(), err)
		}
		if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
			return nil, fmt.Errorf("pass file descriptor %s: %w", f.Name(), err)
		}
	}
	return unix.UnixRights(fds...), nil
}

func decodeRights(oob []byte) ([]*os.File, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("%w: control message: %w", ErrFrame, err)
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return files, fmt.Errorf("%w: file descriptors: %w", ErrFrame, err)
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), fmt.Sprintf("passed-%d", len(files))))
		}
	}
	return files, nil
}

func unexpected(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrFrame, io.ErrUnexpectedEOF)
	}
	return err
}
