package cni

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"github.com/containernetworking/cni/libcni"
)

// directory reads the network configuration from its directory. It looks at the directory each time it is
// asked, and reads files again only when one of them changed: so an answer is never older than its question,
// without a watch that can lose events or run out of inotify instances.
type directory struct {
	path string

	mu    sync.Mutex
	known bool
	stamp string
	list  *libcni.NetworkConfigList
	err   error
}

// load returns the first configuration in order of file names, or nil when there is none. A first configuration
// that cannot be used is an error, never passed over: the network that the operator chose must not be replaced
// by another silently.
func (d *directory) load(log *slog.Logger) (*libcni.NetworkConfigList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	files, stamp, err := d.look()
	if err != nil {
		return nil, err
	}
	if d.known && stamp == d.stamp {
		return d.list, d.err
	}
	if d.list, d.err = nil, nil; len(files) > 0 {
		d.list, d.err = read(files[0])
	}
	if log != nil && (d.known || d.list != nil || d.err != nil) {
		log.Info("network configuration changed", "network", describe(d.list), "error", d.err)
	}
	d.known, d.stamp = true, stamp
	return d.list, d.err
}

func describe(list *libcni.NetworkConfigList) string {
	if list == nil {
		return "built-in"
	}
	return list.Name
}

// look returns the configuration files in order, and a text that differs when any file of the directory or of
// the directories below it (which hold plugins of lists with loadOnlyInlinedPlugins unset) changed.
func (d *directory) look() (files []string, stamp string, err error) {
	entries, err := os.ReadDir(d.path)
	if errors.Is(err, os.ErrNotExist) || d.path == "" {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read network configurations: %w", err)
	}
	var b strings.Builder
	for _, e := range entries {
		path := filepath.Join(d.path, e.Name())
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "%s %d %d %v\n", e.Name(), info.Size(), info.ModTime().UnixNano(), info.Mode())
		}
		switch filepath.Ext(path) {
		case ".conflist", ".conf", ".json":
			files = append(files, path)
		}
	}
	sort.Strings(files)
	return files, b.String(), nil
}

// read reads a configuration list, or the single plugin's configuration that older files hold.
func read(path string) (*libcni.NetworkConfigList, error) {
	list, err := parse(path)
	if err == nil && len(list.Plugins) == 0 {
		err = errors.New("it names no plugin")
	}
	if err != nil {
		return nil, fmt.Errorf("network configuration %s: %w", path, err)
	}
	return list, nil
}

func parse(path string) (*libcni.NetworkConfigList, error) {
	if filepath.Ext(path) == ".conflist" {
		return libcni.NetworkConfFromFile(path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	single, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	return libcni.ConfListFromConf(single)
}
