package stdio

import (
	"os"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// Stdin is the stream of a peer whose input is passed on; the others are those of package logs.
const Stdin logs.Stream = "stdin"

// Peer is an attached file between two processes that serve it, or two runs of one.
type Peer struct {
	File   *os.File
	Stream logs.Stream
	Rest   []byte // what was taken from one side and not given to the other yet
}

// Freeze stops all copying and returns the peers, who are not attached any more. What the container writes waits in its
// pipes. Thaw must follow here, or Resume in the process that takes over. Finish must not be called meanwhile.
func (s *Streams) Freeze() []Peer {
	s.mu.Lock()
	if s.ended || !s.begun {
		s.mu.Unlock()
		return nil
	}
	readers, mover := s.readers, s.mover
	s.mu.Unlock()
	if mover != nil {
		mover.freeze()
	}
	for _, r := range readers {
		r.freeze()
	}
	s.mu.Lock()
	var outlets []*outlet
	streams := map[*outlet]logs.Stream{}
	for o, stream := range s.outlets {
		outlets, streams[o] = append(outlets, o), stream
	}
	var inlets []*inlet
	for in := range s.inlets {
		inlets = append(inlets, in)
	}
	stdin := s.stdin
	s.mu.Unlock()
	var peers []Peer
	for _, o := range outlets {
		if rest, alive := o.freeze(); alive {
			peers = append(peers, Peer{File: o.file, Stream: streams[o], Rest: rest})
		}
	}
	return append(peers, freezeInlets(inlets, stdin)...)
}

func freezeInlets(inlets []*inlet, stdin *os.File) []Peer {
	var peers []Peer
	for _, in := range inlets {
		in.still.Store(true)
		_ = in.file.SetReadDeadline(time.Unix(1, 0))
	}
	if stdin != nil {
		_ = stdin.SetWriteDeadline(time.Unix(1, 0))
		defer stdin.SetWriteDeadline(time.Time{})
	}
	for _, in := range inlets {
		<-in.done
		if in.still.Load() && in.file.SetReadDeadline(time.Time{}) == nil {
			peers = append(peers, Peer{File: in.file, Stream: Stdin, Rest: in.rest})
		}
	}
	return peers
}

// Thaw goes on after Freeze in the same process, with the peers that it returned.
func (s *Streams) Thaw(peers []Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || !s.begun {
		return
	}
	clear(s.outlets)
	clear(s.inlets)
	if s.mover != nil {
		s.mover.thaw()
		s.running.Go(s.mover.run)
	}
	for _, r := range s.readers {
		r.thaw()
		s.running.Go(r.run)
	}
	s.adopt(peers)
}

// adopt attaches peers. It is called with the lock held.
func (s *Streams) adopt(peers []Peer) {
	for _, p := range peers {
		if p.Stream == Stdin {
			s.addInlet(p.File, p.Rest)
		} else {
			s.addOutlet(p.File, p.Stream, p.Rest)
		}
	}
}
