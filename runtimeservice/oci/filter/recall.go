//go:build cgo && seccomp

package filter

// #cgo pkg-config: libseccomp
// #cgo CFLAGS: -D_GNU_SOURCE
// #cgo LDFLAGS: -Wl,--wrap=seccomp_init -Wl,--wrap=seccomp_arch_add -Wl,--wrap=seccomp_attr_set -Wl,--wrap=seccomp_rule_add_array -Wl,--wrap=seccomp_export_bpf
// #include "recall.h"
import "C"

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/seccomp"
)

// magic begins a book; C's terminating zero belongs to it.
const magic = C.BOOK_MAGIC + "\x00"

// Suffix is what the book's path adds to the os.Args[0] of an init.
const Suffix = C.BOOK_SUFFIX

// Compile is the entry of a book for the profile. It can be called once in a process.
func Compile(profile *configs.Seccomp) ([]byte, error) {
	C.skiff_compile_begin()
	_, err := seccomp.InitSeccomp(profile)
	var n C.size_t
	entry := C.skiff_compiled(&n)
	if entry == nil {
		return nil, fmt.Errorf("compile seccomp profile: %w", err)
	}
	if !errors.Is(err, syscall.ECANCELED) {
		return nil, fmt.Errorf("compile seccomp profile: it was loaded (%w)", err)
	}
	return C.GoBytes(unsafe.Pointer(entry), C.int(n)), nil
}
