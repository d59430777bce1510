package server

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// inherit goes on where the keeper that executed this one has left off.
func (s recovery) inherit(state handover.State) error {
	s.lock = handover.Inherited(state.Lock, "lock")
	f := handover.Inherited(state.Listener, "listener")
	l, err := net.FileListener(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("take over socket: %w", err)
	}
	listener, ok := l.(*net.UnixListener)
	if !ok {
		return fmt.Errorf("take over socket: file %d is no unix socket", state.Listener)
	}
	listener.SetUnlinkOnClose(false)
	s.listener = listener
	for _, c := range state.Sessions {
		conn, err := inheritedConn(c.File)
		if err != nil {
			s.cfg.Log.Error("cannot take over a connection", "error", err)
			continue
		}
		parked := newSession(wire.New(conn))
		parked.greeted, parked.pending = c.Greeted, c.Pending
		s.parked = append(s.parked, parked)
	}
	s.tellUpgraded(nil)
	return nil
}

// carried is what of a container only the keeper before had, in its memory.
type carried struct {
	upgrade bool     // it was no death: execs are alive, and known
	ours    *os.File // terminal or stdin
	peers   []stdio.Peer
	execs   []handover.Exec
}

// carry takes a container over from the keeper that executed this one.
func (s recovery) carry(row handover.Container) (id string, err error) {
	var rec record
	if err := json.Unmarshal(row.Record, &rec); err != nil {
		return "", fmt.Errorf("%w: %w", errRecord, err)
	}
	id = rec.Create.ID
	if err := validID(id); err != nil {
		return "", err
	}
	with := carried{upgrade: true, execs: row.Execs}
	if row.Ours != nil {
		with.ours = handover.Inherited(*row.Ours, "ours")
	}
	for _, p := range row.Peers {
		with.peers = append(with.peers, stdio.Peer{File: handover.Inherited(p.File, p.Stream), Stream: logs.Stream(p.Stream), Rest: p.Rest})
	}
	return id, s.admit(rec, with)
}
