package flags

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind of a flag's value: how its text is read.
type kind int

const (
	text       kind = iota
	boolean         // true, false; alone it means true
	integer         // a whole number
	duration        // 1m30s
	list            // a,b
	pairs           // a=b,c=d
	options         // a=b, one a flag: values may have commas
	thresholds      // a<b,c<d
	headers         // a:b,a:c: several values of one name
	gates           // a=true,b=false
	taints          // key=value:effect, key:effect
	memory          // 0:memory=1Gi,hugepages-2Mi=2Gi;1:memory=1Gi
	modules         // file=4,other*=2
)

var kindNames = map[kind]string{text: "string", boolean: "bool", integer: "int", duration: "duration", list: "strings", pairs: "key=value,…",
	options: "key=value", thresholds: "signal<quantity,…", headers: "name:value,…", gates: "gate=bool,…", taints: "key=value:effect,…",
	memory: "node:resource=quantity,…;…", modules: "pattern=N,…"}

// replaces tells whether a value of the kind takes the place of a whole map.
func (k kind) replaces() bool {
	return k == pairs || k == options || k == thresholds || k == headers
}

// value is a pflag.Value that keeps what was given in the shape that it has in the file.
type value struct {
	kind   kind
	given  []string
	parsed any
}

// String gives what the user wrote.
func (v *value) String() string { return strings.Join(v.given, ",") }

// Type says in help texts what is expected.
func (v *value) Type() string { return kindNames[v.kind] }

// Set reads a value; of kinds that hold several things, another flag of the name adds to those before.
func (v *value) Set(s string) error {
	v.given = append(v.given, s)
	switch v.kind {
	case boolean:
		return v.scalar(strconv.ParseBool(s))
	case integer:
		n, err := strconv.ParseInt(s, 0, 64)
		return v.scalar(n, err)
	case duration:
		d, err := time.ParseDuration(s)
		return v.scalar(d.String(), err)
	case text:
		return v.scalar(s, nil)
	case list:
		var have []string
		if v.parsed != nil {
			have = v.parsed.([]string)
		}
		v.parsed = append(have, slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })...)
		return nil
	case taints, memory, modules:
		return v.things(s)
	}
	return v.entries(s)
}

func (v *value) scalar(parsed any, err error) error {
	if err == nil {
		v.parsed = parsed
	}
	return err
}

// entries reads kinds that are maps.
func (v *value) entries(s string) error {
	have := map[string]any{}
	if v.parsed != nil {
		have = v.parsed.(map[string]any)
	}
	v.parsed = have
	separator := map[kind]string{thresholds: "<", headers: ":"}[v.kind]
	if separator == "" {
		separator = "="
	}
	parts := strings.Split(s, ",")
	if v.kind == options {
		parts = []string{s}
	}
	for _, part := range parts {
		if strings.TrimSpace(part) == "" {
			continue
		}
		key, val, ok := strings.Cut(part, separator)
		if !ok {
			return fmt.Errorf("%q: want key%svalue", part, separator)
		}
		key, val = strings.TrimSpace(key), strings.TrimSpace(val)
		switch v.kind {
		case gates:
			on, err := strconv.ParseBool(val)
			if err != nil {
				return fmt.Errorf("%q: want true or false", part)
			}
			have[key] = on
		case headers:
			old, _ := have[key].([]string)
			have[key] = append(old, val)
		default:
			have[key] = val
		}
	}
	return nil
}

// things reads kinds that are lists of objects.
func (v *value) things(s string) error {
	var all []any
	if v.parsed != nil {
		all = v.parsed.([]any)
	}
	separator, read := ",", readTaint
	switch v.kind {
	case memory:
		separator, read = ";", readMemory
	case modules:
		read = readModule
	}
	for part := range strings.SplitSeq(s, separator) {
		if strings.TrimSpace(part) == "" {
			continue
		}
		one, err := read(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		all = append(all, one)
	}
	v.parsed = all
	return nil
}

func readTaint(s string) (any, error) {
	key, effect, ok := strings.Cut(s, ":")
	if !ok {
		return nil, fmt.Errorf("%q: want key=value:effect or key:effect", s)
	}
	if !slices.Contains([]string{"NoSchedule", "PreferNoSchedule", "NoExecute"}, effect) {
		return nil, fmt.Errorf("%q: the effect %q is none of NoSchedule, PreferNoSchedule, NoExecute", s, effect)
	}
	key, val, _ := strings.Cut(key, "=")
	return map[string]any{"key": key, "value": val, "effect": effect}, nil
}

func readMemory(s string) (any, error) {
	node, rest, ok := strings.Cut(s, ":")
	number, err := strconv.Atoi(node)
	if !ok || err != nil || number < 0 {
		return nil, fmt.Errorf("%q: want a NUMA node and limits, as 0:memory=1Gi", s)
	}
	limits := &value{kind: pairs}
	if err := limits.entries(rest); err != nil {
		return nil, err
	}
	return map[string]any{"numaNode": number, "limits": maps.Clone(limits.parsed.(map[string]any))}, nil
}

func readModule(s string) (any, error) {
	pattern, level, ok := strings.Cut(s, "=")
	number, err := strconv.ParseUint(level, 10, 31)
	if !ok || err != nil {
		return nil, fmt.Errorf("%q: want pattern=N", s)
	}
	return map[string]any{"filePattern": pattern, "verbosity": number}, nil
}
