// Package bundle keeps the OCI specification of a container in its directory.
package bundle

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	configFile = "config.json"
	// An exec needs the process only, which is short; the rest is mostly the seccomp profile.
	processFile = "process.json"
)

// Write writes the specification into the container's directory.
func Write(dir string, s *specs.Spec) error {
	if err := write(filepath.Join(dir, configFile), s); err != nil {
		return err
	}
	return write(filepath.Join(dir, processFile), s.Process)
}

// Raw is the specification as it was written.
func Raw(dir string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(dir, configFile))
	if err != nil {
		return nil, fmt.Errorf("read the specification: %w", err)
	}
	return text, nil
}

// Read reads the specification back.
func Read(dir string) (*specs.Spec, error) {
	return read[specs.Spec](filepath.Join(dir, configFile))
}

// Process reads the container's own process back.
func Process(dir string) (*specs.Process, error) {
	return read[specs.Process](filepath.Join(dir, processFile))
}

// Limit gives a container that has not been started other limits.
func Limit(dir string, limits *specs.LinuxResources) error {
	s, err := Read(dir)
	if err != nil {
		return err
	}
	limits.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = limits
	return Write(dir, s)
}

func write(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the specification: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write the specification: %w", err)
	}
	return nil
}

func read[T any](path string) (*T, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the specification: %w", err)
	}
	out := new(T)
	if err := json.Unmarshal(text, out); err != nil {
		return nil, fmt.Errorf("read the specification in %s: %w", path, err)
	}
	return out, nil
}
