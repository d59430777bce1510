// Package store keeps one JSON record per object in a directory that does not outlive a reboot. A record is
// replaced by rename, and nothing is synced: after a reboot no container runs, and a torn record is thrown away
// with what it stood for.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// version of the records' format. Records of another version are not understood.
const version = 1

type envelope[T any] struct {
	Version int `json:"version"`
	Object  T   `json:"object"`
}

// Dir is the records of one kind of object. Calls for the same id are the caller's to serialise.
type Dir[T any] struct{ path string }

// Open makes the directory where needed.
func Open[T any](path string) (*Dir[T], error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make the record directory: %w", err)
	}
	return &Dir[T]{path: path}, nil
}

func (d *Dir[T]) file(id string) string { return filepath.Join(d.path, id+".json") }

// Save replaces the record of id.
func (d *Dir[T]) Save(id string, object T) error {
	text, err := json.Marshal(envelope[T]{version, object})
	if err != nil {
		return fmt.Errorf("encode the record of %s: %w", id, err)
	}
	temp := d.file(id) + ".tmp"
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write the record of %s: %w", id, err)
	}
	if err := os.Rename(temp, d.file(id)); err != nil {
		return fmt.Errorf("replace the record of %s: %w", id, err)
	}
	return nil
}

// Delete forgets the record of id. Deleting what is gone succeeds.
func (d *Dir[T]) Delete(id string) error {
	if err := os.Remove(d.file(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete the record of %s: %w", id, err)
	}
	return nil
}

// Load reads all records. Those that cannot be read are deleted and returned by id in torn, with the reason.
func (d *Dir[T]) Load() (objects map[string]T, torn map[string]error, err error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, nil, fmt.Errorf("list records: %w", err)
	}
	objects, torn = map[string]T{}, map[string]error{}
	for _, entry := range entries {
		id, isRecord := strings.CutSuffix(entry.Name(), ".json")
		if !isRecord {
			_ = os.Remove(filepath.Join(d.path, entry.Name())) // the temporary file of a write that was cut short
			continue
		}
		object, err := d.read(id)
		if err != nil {
			torn[id] = errors.Join(err, d.Delete(id))
			continue
		}
		objects[id] = object
	}
	return objects, torn, nil
}

func (d *Dir[T]) read(id string) (T, error) {
	var e envelope[T]
	text, err := os.ReadFile(d.file(id))
	if err != nil {
		return e.Object, fmt.Errorf("read the record of %s: %w", id, err)
	}
	if err := json.Unmarshal(text, &e); err != nil {
		return e.Object, fmt.Errorf("the record of %s is torn: %w", id, err)
	}
	if e.Version != version {
		return e.Object, fmt.Errorf("the record of %s has version %d, this build reads %d", id, e.Version, version)
	}
	return e.Object, nil
}
