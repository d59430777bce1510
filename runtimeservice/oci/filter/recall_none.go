//go:build !cgo || !seccomp

package filter

import (
	"errors"

	"github.com/opencontainers/runc/libcontainer/configs"
)

const magic = "skiff filters 1\x00"

// Suffix is what the book's path adds to the os.Args[0] of an init.
const Suffix = ".filters"

// Compile is not supported.
func Compile(*configs.Seccomp) ([]byte, error) {
	return nil, errors.New("built without seccomp")
}
