package entry

import (
	"strings"
	"sync"

	"github.com/moby/sys/capability"
)

// capabilities are those of this kernel by their names in OCI, and the last of them.
var capabilities = sync.OnceValues(func() (last capability.Cap, byName map[string]capability.Cap) {
	byName = map[string]capability.Cap{}
	list, err := capability.ListSupported()
	if err != nil {
		list = capability.ListKnown()
	}
	for _, c := range list {
		byName["CAP_"+strings.ToUpper(c.String())] = c
		last = max(last, c)
	}
	return last, byName
})

// bits is a set of capabilities. One that the kernel does not have is left out, as OCI wants it.
func bits(names []string) uint64 {
	var set uint64
	_, byName := capabilities()
	for _, name := range names {
		if c, ok := byName[name]; ok {
			set |= 1 << c
		}
	}
	return set
}
