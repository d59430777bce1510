package veth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// request is one request of a batch.
type request struct {
	what string // for errors: "create veth pair skv…"
	*nl.NetlinkRequest
	fine unix.Errno // an error that is none
}

func newRequest(what string, kind, flags int) request {
	return request{what: what, NetlinkRequest: nl.NewNetlinkRequest(kind, flags)}
}

// batch carries out rtnetlink requests in a network namespace, in order, in one datagram: one system call for all, where
// one by one each is sent, acknowledged and received. The kernel goes on after one that fails; the first failure is
// returned. The reply is the last message that is not an acknowledgement, without its header: that of an RTM_GET….
func batch(ns netns.NsHandle, requests ...request) (reply []byte, err error) {
	socket, err := nl.GetNetlinkSocketAt(ns, netns.None(), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer socket.Close()
	last := requests[len(requests)-1]
	last.Flags |= unix.NLM_F_ACK // of the others only failures are told
	var datagram []byte
	for _, r := range requests {
		datagram = append(datagram, r.Serialize()...)
		datagram = append(datagram, make([]byte, -len(datagram)&(unix.NLMSG_ALIGNTO-1))...)
	}
	if err := unix.Sendto(socket.GetFd(), datagram, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("send to netlink: %w", err)
	}
	return answers(socket.GetFd(), requests)
}

// here is the process's own network namespace.
func here() netns.NsHandle { return netns.None() }

// answers reads up to the acknowledgement of the last request. All answers are there by now: rtnetlink works while it is
// being sent to.
func answers(fd int, requests []request) (reply []byte, err error) {
	buffer := make([]byte, 16<<10)
	for {
		n, _, recvErr := unix.Recvfrom(fd, buffer, unix.MSG_DONTWAIT)
		if errors.Is(recvErr, unix.EINTR) {
			continue
		}
		if recvErr != nil {
			return nil, errors.Join(err, fmt.Errorf("receive from netlink: %w", recvErr))
		}
		messages, parseErr := syscall.ParseNetlinkMessage(buffer[:n])
		if parseErr != nil {
			return nil, errors.Join(err, fmt.Errorf("receive from netlink: %w", parseErr))
		}
		for _, m := range messages {
			if m.Header.Type != unix.NLMSG_ERROR {
				reply = append([]byte(nil), m.Data...)
				continue
			}
			if err == nil {
				err = failure(m, requests)
			}
			if m.Header.Seq == requests[len(requests)-1].Seq {
				return reply, err
			}
		}
	}
}

// failure is what an acknowledgement says of its request.
func failure(m syscall.NetlinkMessage, requests []request) error {
	if len(m.Data) < 4 {
		return errors.New("netlink: the acknowledgement is torn")
	}
	errno := unix.Errno(-int32(binary.NativeEndian.Uint32(m.Data)))
	for _, r := range requests {
		if r.Seq == m.Header.Seq && errno != 0 && errno != r.fine {
			return fmt.Errorf("%s: %w", r.what, errno)
		}
	}
	return nil
}
