package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// state is what is known of a container, in the directory <root>/<id>. Whoever finds it can reach the shim.
type state struct {
	ID        string    `json:"id"`
	Bundle    string    `json:"bundle"`
	Binary    string    `json:"binary"`
	Shim      Bootstrap `json:"shim"`
	Monitor   int       `json:"monitor"`             // pid of the container's monitor
	Pid       int       `json:"pid"`                 // of the container's process, or of what stands for it
	StartedBy bool      `json:"startedBy,omitempty"` // the shim was started for this container

	dir string
}

var errNoState = errors.New("container does not exist")

func (s state) save() error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, "state.json")
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return os.Rename(path+".new", path)
}

func loadState(root, id string) (state, error) {
	s := state{dir: filepath.Join(root, id)}
	text, err := os.ReadFile(filepath.Join(s.dir, "state.json"))
	if errors.Is(err, os.ErrNotExist) {
		return s, fmt.Errorf("%w: %s", errNoState, id)
	}
	if err != nil {
		return s, fmt.Errorf("read state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read state of %s: %w", id, err)
	}
	return s, nil
}

// Annotations that say what a container is in its pod, as containerd writes them.
const (
	annotationType    = "io.kubernetes.cri.container-type"
	annotationSandbox = "io.kubernetes.cri.sandbox-id"
)

// sandboxOf is the id of the sandbox container that a container is to be made beside; "" for one that needs a shim of its own.
func sandboxOf(id string, spec *specs.Spec) string {
	box := spec.Annotations[annotationSandbox]
	if spec.Annotations[annotationType] != "container" || box == id {
		return ""
	}
	return box
}

// realNamespaces replaces, in paths of namespaces, monitors by the processes they stand for: whoever shares a container's
// namespace knows its process by the number that the keeper knows, which is the monitor's.
func realNamespaces(root string, spec *specs.Spec) error {
	if spec.Linux == nil {
		return nil
	}
	for i, ns := range spec.Linux.Namespaces {
		rest, ok := strings.CutPrefix(ns.Path, "/proc/")
		number, kind, _ := strings.Cut(rest, "/")
		monitor, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		pid, err := processOf(root, monitor)
		if err != nil {
			return err
		}
		if pid != 0 {
			spec.Linux.Namespaces[i].Path = fmt.Sprintf("/proc/%d/%s", pid, kind)
		}
	}
	return nil
}

// processOf is the process that a monitor stands for, 0 where it is no monitor.
func processOf(root string, monitor int) (int, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		s, err := loadState(root, e.Name())
		if err == nil && s.Monitor == monitor {
			return s.Pid, nil
		}
	}
	return 0, nil
}
