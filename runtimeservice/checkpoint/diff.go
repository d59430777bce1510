package checkpoint

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// writeDiff writes the upper layer of an overlay as an archive, and returns the paths that it deletes of the lower ones.
func writeDiff(upper string, to io.Writer) (deleted []string, err error) {
	w := tar.NewWriter(to)
	err = filepath.WalkDir(upper, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == upper {
			return err
		}
		name, err := filepath.Rel(upper, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode()&fs.ModeCharDevice != 0 && st.Rdev == 0 { // overlay's mark of a deleted file
			deleted = append(deleted, name)
			return nil
		}
		if opaque(path) {
			deleted = append(deleted, name+"/")
		}
		return writeFile(w, path, name, info)
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("write the changes of the root file system: %w", err)
	}
	return deleted, nil
}

// opaque directories hide what lower layers have in them.
func opaque(path string) bool {
	var value [1]byte
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

func writeFile(w *tar.Writer, path, name string, info fs.FileInfo) error {
	if info.Mode()&(fs.ModeSocket|fs.ModeIrregular) != 0 {
		return nil // an archive has no sockets; whoever listens has gone with the process, or CRIU makes it anew
	}
	link := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	header.Uname, header.Gname, header.Format = "", "", tar.FormatPAX
	if err := w.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}

// applyDiff changes a root file system as an archive of writeDiff says. The archive may come from anywhere: no name of it
// leads out of the root, whatever links are in there.
func applyDiff(rootDir string, from io.Reader, deleted []string) error {
	root, err := os.OpenRoot(rootDir)
	if err != nil {
		return fmt.Errorf("open the root file system: %w", err)
	}
	defer root.Close()
	for _, name := range deleted {
		if err := root.RemoveAll(strings.TrimSuffix(name, "/")); err != nil {
			return fmt.Errorf("delete %s: %w", name, err)
		}
	}
	for r := tar.NewReader(from); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = extract(root, header, r)
		}
		if err != nil {
			return fmt.Errorf("apply the changes of the root file system: %w", err)
		}
	}
}

func extract(root *os.Root, h *tar.Header, content io.Reader) error {
	name := filepath.Clean(h.Name)
	if !filepath.IsLocal(name) {
		return fmt.Errorf("%q is not below the root", h.Name)
	}
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.MkdirAll(name, mode.Perm()); err != nil {
			return err
		}
	case tar.TypeReg:
		if err := regular(root, name, content); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.RemoveAll(name); err != nil {
			return err
		}
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, h.Uid, h.Gid)
	default:
		return nil // devices and pipes of the upper layer are rare; CRIU says so if it misses one
	}
	if err := root.Lchown(name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := root.Chmod(name, mode); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime) // CRIU refuses files that have changed
}

func regular(root *os.Root, name string, content io.Reader) error {
	if err := root.RemoveAll(name); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// writeJSON and readJSON are for the descriptions.
func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

func readJSON(path string, v any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	return nil
}
