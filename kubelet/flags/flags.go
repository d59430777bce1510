// Package flags is upstream's command line of the kubelet, as far as it stands for the configuration. Each such flag is a
// name for a field of KubeletConfiguration; what is given is merged over the file and its drop-ins, as one more drop-in,
// and is checked with them. Defaults are those of the file, the safe ones: upstream's flags still allow anonymous requests
// and a read-only port where no file is given.
package flags

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// Set is the flags of one command line.
type Set struct {
	flags *pflag.FlagSet
}

// Add registers the flags, and lets underscores stand for dashes, as upstream. Flags for which there is a better place say
// so when they are used.
func Add(to *pflag.FlagSet) *Set {
	to.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
	})
	for _, d := range definitions {
		f := to.VarPF(&value{kind: d.kind}, d.name, d.short, d.usage+" ("+d.field+")")
		if d.kind == boolean {
			f.NoOptDefVal = "true"
		}
		if !d.stays {
			f.Deprecated = "set " + d.field + " in the file that --config names"
			f.Hidden = false
		}
	}
	return &Set{flags: to}
}

// Patches are what the command line says, as JSON merge patches of a KubeletConfiguration, to be applied in their order. A map
// that is given replaces the file's, so the first patch takes that away; feature gates are the exception, as upstream.
func (s *Set) Patches() ([][]byte, error) {
	clear, set := map[string]any{}, map[string]any{}
	for _, d := range definitions {
		f := s.flags.Lookup(d.name)
		if !f.Changed {
			continue
		}
		v := f.Value.(*value)
		if v.kind.replaces() {
			put(clear, d.field, nil)
		}
		put(set, d.field, v.parsed)
	}
	var patches [][]byte
	for _, p := range []map[string]any{clear, set} {
		if len(p) == 0 {
			continue
		}
		raw, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("flags: %w", err)
		}
		patches = append(patches, raw)
	}
	return patches, nil
}

// put sets the field at a path with dots.
func put(into map[string]any, path string, v any) {
	for {
		first, rest, deeper := strings.Cut(path, ".")
		if !deeper {
			into[first] = v
			return
		}
		next, ok := into[first].(map[string]any)
		if !ok {
			next = map[string]any{}
			into[first] = next
		}
		into, path = next, rest
	}
}
