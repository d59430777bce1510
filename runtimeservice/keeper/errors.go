package keeper

import (
	"errors"
	"fmt"
)

// The errors of the keeper, one for each code. A client's errors wrap them.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("exists already")
	ErrInvalid  = errors.New("invalid request")
	ErrState    = errors.New("wrong state")
)

// ErrLost says that the keeper died, or that none lives: whether the call was carried out is unknown. The next keeper knows.
var ErrLost = errors.New("lost the keeper")

// SocketName is the socket's name in the keeper's run directory.
const SocketName = "keeper.sock"

// err is the client's error for a failed reply.
func (r Reply) err() error {
	for _, c := range []struct {
		code string
		is   error
	}{
		{CodeNotFound, ErrNotFound},
		{CodeExists, ErrExists},
		{CodeInvalid, ErrInvalid},
		{CodeState, ErrState},
	} {
		if r.Code == c.code {
			return &remoteError{text: r.Error, is: c.is}
		}
	}
	return fmt.Errorf("keeper: %s", r.Error)
}

// remoteError keeps the keeper's words, which name the sentinel already.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
