package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// A container's streams are named pipes of the keeper's, which no mount of the container shows. CRIU writes such a file
// when it is told that it is external, and continues with another in its place; it is told by a configuration file, whose
// name is an annotation.
const (
	criuAnnotation = "org.criu.config"
	usualCriuConf  = "/etc/criu/runc.conf" // the user's, which ours adds to
	streamsFile    = "streams.json"        // among the images: descriptor → CRIU's name of the file
)

func (n *Native) criuConf(id string) string { return filepath.Join(n.root, id, "criu.conf") }

// annotateCriu names the configuration file, unless the user has one for this container.
func (n *Native) annotateCriu(id string, spec *specs.Spec) {
	if _, has := spec.Annotations[criuAnnotation]; has {
		return
	}
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[criuAnnotation] = n.criuConf(id)
}

// external tells CRIU of the streams that are named pipes, and notes them beside the images.
func (n *Native) external(c *libcontainer.Container, id, images string) error {
	state, err := c.State()
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	names := map[int]string{}
	var lines []string
	for fd := range 3 {
		name, err := pipeName(state.InitProcessPid, fd)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		if name != "" {
			names[fd] = name
			lines = append(lines, "external "+name)
		}
	}
	text, err := json.Marshal(names)
	if err == nil {
		err = os.WriteFile(filepath.Join(images, streamsFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return n.writeConf(id, lines)
}

// inherit has CRIU put the new streams in the place of the old.
func (n *Native) inherit(id, images string) error {
	text, err := os.ReadFile(filepath.Join(images, streamsFile))
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	names := map[int]string{}
	if err := json.Unmarshal(text, &names); err != nil {
		return fmt.Errorf("restore: %s: %w", streamsFile, err)
	}
	var lines []string
	for fd, name := range names {
		if strings.ContainsAny(name, "\n#") {
			return fmt.Errorf("restore: %s: %q is no name of a file", streamsFile, name)
		}
		lines = append(lines, fmt.Sprintf("inherit-fd fd[%d]:%s", fd, name))
	}
	return n.writeConf(id, lines)
}

func (n *Native) writeConf(id string, lines []string) error {
	usual, err := os.ReadFile(usualCriuConf)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("configure CRIU: %w", err)
	}
	text := string(usual) + "\n" + strings.Join(lines, "\n") + "\n"
	if err := os.WriteFile(n.criuConf(id), []byte(text), 0o600); err != nil {
		return fmt.Errorf("configure CRIU: %w", err)
	}
	return nil
}

// pipeName is CRIU's name of a named pipe that a process has open, "file[mount:inode]" in hexadecimal; "" for anything
// else.
func pipeName(pid, fd int) (string, error) {
	path := fmt.Sprintf("/proc/%d/fd/%d", pid, fd)
	target, err := os.Readlink(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil // it has been closed
	}
	var st unix.Stat_t
	if err == nil {
		err = unix.Stat(path, &st)
	}
	if err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFIFO || !strings.HasPrefix(target, "/") {
		return "", nil
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		var mount int
		if _, err := fmt.Sscanf(line, "mnt_id: %d", &mount); err == nil {
			return fmt.Sprintf("file[%x:%x]", mount, st.Ino), nil
		}
	}
	return "", fmt.Errorf("the mount of %s is not told by the kernel", path)
}
