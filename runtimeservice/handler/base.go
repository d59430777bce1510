package handler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// How lists of a specification are merged; any other list of the request replaces that of the base.
var lists = map[string]func(entry any) string{
	"mounts":            field("destination"),
	"process.env":       variable,
	"process.rlimits":   field("type"),
	"linux.namespaces":  field("type"),
	"linux.devices":     field("path"),
	"linux.maskedPaths": whole, "linux.readonlyPaths": whole,
	"linux.resources.devices":        nothing,
	"linux.resources.hugepageLimits": field("pageSize"),
	"hooks.prestart":                 nothing, "hooks.createRuntime": nothing, "hooks.createContainer": nothing,
	"hooks.startContainer": nothing, "hooks.poststart": nothing, "hooks.poststop": nothing,
}

// Keys of entries: one of the request replaces the base's of the same key; without a key both stay, the base's first.
func field(name string) func(any) string {
	return func(entry any) string {
		object, _ := entry.(map[string]any)
		key, _ := object[name].(string)
		return key
	}
}

func variable(entry any) string {
	text, _ := entry.(string)
	name, _, _ := strings.Cut(text, "=")
	return name
}

func whole(entry any) string { text, _ := entry.(string); return text }

func nothing(any) string { return "" }

// overlay lays a specification over a base: what it says holds, what it does not say is the base's.
func overlay(base map[string]any, s *specs.Spec) (*specs.Spec, error) {
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode the specification: %w", err)
	}
	over, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("decode the specification: %w", err)
	}
	if text, err = json.Marshal(mergeObjects("", base, over)); err != nil {
		return nil, fmt.Errorf("merge onto the base specification: %w", err)
	}
	out := &specs.Spec{}
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("merge onto the base specification: %w", err)
	}
	return out, nil
}

// decode keeps numbers as they are written: a limit of 2^63 does not fit a float.
func decode(text []byte) (map[string]any, error) {
	var out map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	err := d.Decode(&out)
	return out, err
}

// mergeObjects leaves both alone and returns a new one.
func mergeObjects(at string, base, over map[string]any) map[string]any {
	out := map[string]any{}
	for key, value := range base {
		out[key] = value
	}
	for key, value := range over {
		out[key] = mergeValues(strings.TrimPrefix(at+"."+key, "."), out[key], value)
	}
	return out
}

func mergeValues(at string, base, over any) any {
	switch o := over.(type) {
	case map[string]any:
		if b, ok := base.(map[string]any); ok {
			return mergeObjects(at, b, o)
		}
	case []any:
		key, merged := lists[at]
		if b, ok := base.([]any); ok && merged {
			return mergeLists(key, b, o)
		}
	}
	return over
}

func mergeLists(key func(any) string, base, over []any) []any {
	replaced := map[string]bool{}
	for _, entry := range over {
		replaced[key(entry)] = true
	}
	var out []any
	for _, entry := range base {
		if k := key(entry); k == "" || !replaced[k] {
			out = append(out, entry)
		}
	}
	return append(out, over...)
}
