package runtime

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// readTail reads at most the last most bytes of a file.
func readTail(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	if info.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return nil, err
		}
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// logTail is the end of a container's log, without the prefixes of the CRI log format.
func logTail(_ context.Context, path string) string {
	raw, err := readTail(path, maxLogTail)
	if err != nil {
		return fmt.Sprintf("Error on reading termination message from logs: %v", err)
	}
	lines := bytes.Split(bytes.TrimSuffix(raw, []byte("\n")), []byte("\n"))
	if len(lines) > maxLogLines {
		lines = lines[len(lines)-maxLogLines:]
	}
	var b strings.Builder
	for _, line := range lines {
		fields := bytes.SplitN(line, []byte(" "), 4) // time, stream, tag, text
		if len(fields) < 4 {
			continue
		}
		b.Write(fields[3])
		if string(fields[2]) != "P" {
			b.WriteByte('\n')
		}
	}
	text := b.String()
	if len(text) > maxLogWords {
		text = text[len(text)-maxLogWords:]
	}
	return text
}

// restartsByLog is the next restart count of a container of which only log files are left, as after a reboot.
func restartsByLog(dir string) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0
	}
	next := 0
	for _, e := range entries {
		number, _, _ := strings.Cut(e.Name(), ".log")
		if n, err := strconv.Atoi(number); err == nil && n+1 > next {
			next = n + 1
		}
	}
	return next
}

// linksDir is beside the logs and has one link per container log, for log collectors that know no other place:
// /var/log/containers beside /var/log/pods.
func linksDir(logsDir string) string { return filepath.Join(filepath.Dir(logsDir), "containers") }

// link makes the container's log known to old log collectors. That it fails must not stop a container.
func (l launch) link(id, log string) {
	p, linksDir := l.req.Pod, linksDir(l.cfg.Node.LogsDir)
	if _, err := os.Stat(log); err != nil {
		return
	}
	path := filepath.Join(linksDir, fmt.Sprintf("%s_%s_%s-%s.log", p.Name, p.Namespace, l.req.Start.Name, id))
	if err := os.MkdirAll(linksDir, 0o755); err != nil {
		return
	}
	// It is made beside the log and moved: then it lies where the file system has put the pod (package apart), and not where the links
	// of all former pods were.
	draft := filepath.Join(filepath.Dir(log), ".link")
	if os.Symlink(log, draft) == nil && os.Rename(draft, path) == nil {
		return
	}
	_ = os.Remove(draft)
	_ = os.Symlink(log, path) // the two are on different file systems
}

// RemoveLogs removes the pod's logs and the links to them, the last that is left of a pod, and forgets it.
func (r *Runtime) RemoveLogs(p *v1.Pod) error {
	r.mu.Lock()
	delete(r.known, p.UID)
	r.mu.Unlock()
	dir := spec.PodLogDir(r.cfg.Node.LogsDir, p)
	links, _ := filepath.Glob(filepath.Join(linksDir(r.cfg.Node.LogsDir), p.Name+"_"+p.Namespace+"_*.log"))
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil && strings.HasPrefix(to, dir+"/") {
			_ = os.Remove(l)
		}
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove logs: %w", err)
	}
	return nil
}
