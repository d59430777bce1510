package csi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// dataFile is upstream's name of an entry.
const dataFile = "vol_data.json"

// entry is what is written before a driver is asked for something. The first fields are upstream's; all are strings, as it
// expects.
type entry struct {
	Name       string `json:"specVolID,omitempty"` // persistent volume, or the pod's volume
	Handle     string `json:"volumeHandle"`
	Driver     string `json:"driverName"`
	Node       string `json:"nodeName,omitempty"`
	Attachment string `json:"attachmentID,omitempty"`
	Lifecycle  string `json:"volumeLifecycleMode,omitempty"`
	// Mode is "Block" for a raw device.
	Mode string `json:"volumeMode,omitempty"`
	// Label is the SELinux label that the volume is mounted with.
	Label string `json:"seLinuxMountContext,omitempty"`
	// Complete is the id of the boot in which the step was completed.
	Complete string `json:"completeInBoot,omitempty"`
}

func (e *entry) identity() identity { return identity{e.Driver, e.Handle} }
func (e *entry) block() bool        { return e.Mode == "Block" }

// Persistent tells persistent volumes from inline ones.
func (e *entry) Persistent() bool { return e.Lifecycle != "Ephemeral" }

// journal knows where everything is.
type journal struct{ root string }

// plugin is the directory of what is the node's and no pod's.
func (j *journal) plugin() string { return filepath.Join(j.root, "plugins", "kubernetes.io", "csi") }

// target is where a volume of a pod is published; dir is the volume's directory in the pod's.
func (j *journal) target(dir, pod string, e *entry) string {
	if e.block() {
		return filepath.Join(j.plugin(), "volumeDevices", "publish", e.Name, pod)
	}
	return filepath.Join(dir, "mount")
}

// staging is where a volume is staged, and the directory of the entry that says so.
func (j *journal) staging(e *entry) (path, entryDir string) {
	if e.block() {
		devices := filepath.Join(j.plugin(), "volumeDevices")
		return filepath.Join(devices, "staging", e.Name), filepath.Join(devices, e.Name, "data")
	}
	dir := filepath.Join(j.plugin(), e.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(e.Handle))))
	return filepath.Join(dir, "globalmount"), dir
}

// load reads the entry of a directory; a zero entry when there is none that can be read.
func (j *journal) load(dir string) entry {
	e, _ := read(dir)
	return e
}

func read(dir string) (entry, error) { return whole.ReadJSON[entry](filepath.Join(dir, dataFile)) }

// save writes the entry of a directory, whole or not at all.
func (j *journal) save(dir string, e *entry) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("note the volume: %w", err)
	}
	if err := whole.WriteJSON(filepath.Join(dir, dataFile), e); err != nil {
		return fmt.Errorf("note the volume: %w", err)
	}
	return nil
}

// noted is an entry below a pod's directory.
type noted struct {
	entry
	pod, dir string
}

// all lists the entries of all pods. An entry that cannot be read is left out: it was torn by a power failure, upon which
// nothing was mounted any more.
func (j *journal) all() ([]noted, error) {
	pods, err := os.ReadDir(filepath.Join(j.root, "pods"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var list []noted
	for _, p := range pods {
		of, err := j.of(p.Name(), filepath.Join(j.root, "pods", p.Name(), "volumes", "kubernetes.io~csi"))
		if err != nil {
			return nil, err
		}
		list = append(list, of...)
	}
	return list, nil
}

// of lists the entries of one pod.
func (j *journal) of(pod, dir string) ([]noted, error) {
	dirs, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []noted
	for _, d := range dirs {
		path := filepath.Join(dir, d.Name())
		if e, err := read(path); err == nil && e.Driver != "" && e.Handle != "" {
			list = append(list, noted{e, pod, path})
		}
	}
	return list, nil
}

// others lists what pods, but this one, have noted of the volume: they have it.
func (j *journal) others(id identity, pod string) ([]noted, error) {
	all, err := j.all()
	if err != nil {
		return nil, fmt.Errorf("look which pods have the volume: %w", err)
	}
	return slices.DeleteFunc(all, func(e noted) bool { return e.identity() != id || e.pod == pod }), nil
}

// bootID tells this boot of the machine from any other.
func bootID() (string, error) {
	raw, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the id of this boot: %w", err)
	}
	return strings.TrimSpace(string(raw)), nil
}
