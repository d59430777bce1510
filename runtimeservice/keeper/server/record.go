package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// recordVersion changes when a record of an older keeper cannot be read any more.
const recordVersion = 1

// record is all that a keeper knows of one container, as it is on disk. It is written first with an empty State, before
// anything is done, so that a keeper that finds it there knows what to sweep.
type record struct {
	Version   int              `json:"version"`
	Create    keeper.Create    `json:"create"` // without the specification, which the runtime keeps
	Created   oci.Created      `json:"created"`
	StartTime uint64           `json:"startTime,omitempty"` // of the init, to tell it from a later process with its pid
	Row       keeper.Container `json:"row"`
}

// save replaces the record of a container.
func (r record) save(dir string) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, "record.json")
	temp := filepath.Join(dir, ".record.json")
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	if err := os.Rename(temp, path); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return nil
}

var errRecord = errors.New("unreadable record")

func loadRecord(dir string) (record, error) {
	var r record
	text, err := os.ReadFile(filepath.Join(dir, "record.json"))
	if err != nil {
		return r, fmt.Errorf("%w: %w", errRecord, err)
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errRecord, err)
	}
	if r.Version != recordVersion {
		return r, fmt.Errorf("%w: version %d, this keeper reads %d", errRecord, r.Version, recordVersion)
	}
	return r, nil
}
