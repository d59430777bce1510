package cri

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Listen takes the unix socket at path, mode 0660. A socket that nobody answers on is what a killed server left
// behind and is replaced; a living server there is an error.
func Listen(path string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, fmt.Errorf("make the directory of socket %s: %w", path, err)
	}
	if conn, err := net.DialTimeout("unix", path, 5*time.Second); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("listen on %s: another server answers there; stop it or choose another socket (--listen)", path)
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("look at socket %s: %w", path, err)
	case info.Mode()&fs.ModeSocket == 0:
		return nil, fmt.Errorf("listen on %s: a file that is no socket is in the way", path)
	default:
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replace the abandoned socket: %w", err)
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		return nil, errors.Join(fmt.Errorf("protect socket %s: %w", path, err), listener.Close())
	}
	return listener, nil
}
