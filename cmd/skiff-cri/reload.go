package main

import (
	"fmt"
	"maps"
	"slices"

	"github.com/pelletier/go-toml/v2"
)

// adopt is what a reload makes of the running configuration: what can change while the server runs is that of now,
// all else stays as it is in old. It is the list of reloadable keys; default.toml marks them [reload].
func adopt(old, now Config) Config {
	out := old
	out.LogLevel = now.LogLevel
	out.Monitor = now.Monitor
	out.Monitor.LogFormat = old.Monitor.LogFormat
	out.Tracing = now.Tracing
	out.Images.CertsDirs, out.Images.DockerConfig = now.Images.CertsDirs, now.Images.DockerConfig
	out.Images.Pinned, out.Images.StallTimeout = now.Images.Pinned, now.Images.StallTimeout
	out.Runtimes = now.Runtimes
	out.origins = now.origins
	return out
}

// changes are the keys in which two configurations differ, in order.
func changes(a, b Config) ([]string, error) {
	before, err := flatten(a)
	if err != nil {
		return nil, err
	}
	after, err := flatten(b)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(before)
	maps.Copy(all, after)
	var out []string
	for _, key := range slices.Sorted(maps.Keys(all)) {
		x, hadX := before[key]
		y, hasY := after[key]
		if x != y || hadX != hasY {
			out = append(out, key)
		}
	}
	return out, nil
}

// flatten is a configuration as key → value.
func flatten(c Config) (map[string]string, error) {
	text, err := toml.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	tree := map[string]any{}
	if err := toml.Unmarshal(text, &tree); err != nil {
		return nil, fmt.Errorf("compare configurations: %w", err)
	}
	out := map[string]string{}
	leaves("", tree, out)
	return out, nil
}

func leaves(prefix string, tree map[string]any, out map[string]string) {
	for key, value := range tree {
		if table, ok := value.(map[string]any); ok {
			leaves(prefix+key+".", table, out)
			continue
		}
		out[prefix+key] = fmt.Sprintf("%#v", value)
	}
}
