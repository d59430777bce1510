package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// fifoName is libcontainer's name of the fifo that an init waits at.
const fifoName = "exec.fifo"

// waiting is the time of the last write to a fifo into which nobody has written: the kernel sets it anew when the init
// writes, just before it executes the program.
var waiting = time.Unix(0, 0)

// markWaiting prepares for Started.
func (n *Native) markWaiting(id string) error {
	if err := os.Chtimes(filepath.Join(n.root, id, fifoName), waiting, waiting); err != nil {
		return fmt.Errorf("mark that the container waits: %w", err)
	}
	return nil
}

// Started tells whether a container's init was let go on, whoever did it, and whether it lives or not: it has written into
// its fifo, or that was removed. One that was about to write when its keeper was killed dies of it, and was not.
func (n *Native) Started(id string) (bool, error) {
	info, err := os.Stat(filepath.Join(n.root, id, fifoName))
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look whether the container was started: %w", err)
	}
	return !info.ModTime().Equal(waiting), nil
}
