package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
//
// CRIU reads that file twice: before it goes to its working directory and after. What is there twice is done twice, and the
// descriptor of a stream that has been taken over can't be taken again. So the name is a relative one, of a file beside
// the images: the first time, in the keeper's working directory, there is none, which CRIU ignores.
const (
	criuAnnotation = "org.criu.config"
	userAnnotation = "skiff.criu.config"   // the user's annotation, whose place ours takes
	usualCriuConf  = "/etc/criu/runc.conf" // of users without an annotation
	criuConf       = "skiff-criu.conf"     // what is in the user's, and our own lines
	streamsFile    = "streams.json"        // among the images: descriptor → CRIU's name of the file
)

// annotateCriu names our configuration file, and keeps the name of the user's.
func annotateCriu(spec *specs.Spec) {
	usual, has := spec.Annotations[criuAnnotation]
	if !has {
		usual = usualCriuConf
	}
	spec.Annotations = maps.Clone(spec.Annotations)
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[userAnnotation], spec.Annotations[criuAnnotation] = usual, criuConf
}

// external tells CRIU of the streams that are named pipes, and notes them beside the images.
func external(c *libcontainer.Container, images string, pipes map[int]string) error {
	names := map[int]string{}
	var lines []string
	for fd, path := range pipes {
		name, err := pipeName(path)
		if err != nil {
			return fmt.Errorf("checkpoint: %w", err)
		}
		names[fd] = name
		lines = append(lines, "external "+name)
	}
	text, err := json.Marshal(names)
	if err == nil {
		err = os.WriteFile(filepath.Join(images, streamsFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	return writeConf(c, images, lines)
}

// inherit has CRIU put the new streams in the place of the old.
func inherit(c *libcontainer.Container, images string) error {
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
	return writeConf(c, images, append(lines, quiet))
}

// quiet has CRIU log warnings and errors only: the log is in memory, and as long as CRIU takes.
const quiet = "verbosity=2"

// writeConf has CRIU do what the lines say, unless the user wants it otherwise.
func writeConf(c *libcontainer.Container, images string, lines []string) error {
	text, err := userConf(c.Config().Labels)
	if err == nil {
		err = os.WriteFile(filepath.Join(images, criuConf), []byte(strings.Join(lines, "\n")+"\n"+text), 0o600)
	}
	if err != nil {
		return fmt.Errorf("configure CRIU: %w", err)
	}
	return nil
}

// userConf is what the user's configuration file says; CRIU ignores one that is missing, and so does this.
func userConf(labels []string) (string, error) {
	for _, label := range labels {
		path, found := strings.CutPrefix(label, userAnnotation+"=")
		if !found || path == "" {
			continue
		}
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", nil
		}
		return string(text), err
	}
	return "", nil
}

// pipeName is CRIU's name of a named pipe, "file[mount:inode]" in hexadecimal.
func pipeName(path string) (string, error) {
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
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
