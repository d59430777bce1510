package hostport

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// suffix ends the name of a record, so that what a killed process left half written is not taken for one.
const suffix = ".json"

func recordPath(dir, key string) string {
	return filepath.Join(dir, strings.ReplaceAll(key, "/", "@")+suffix)
}

func writeRecord(dir string, e Entry) error {
	data, err := json.Marshal(e)
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	path := recordPath(dir, e.Key)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("record what is published: %w", err)
	}
	return nil
}

func removeRecord(dir, key string) error {
	if err := os.Remove(recordPath(dir, key)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the record of what is published: %w", err)
	}
	return nil
}

// readRecords reads every record. One that cannot be read is removed: its sandbox, if it lives, lost its ports
// with the machine's power.
func readRecords(dir string) ([]Entry, error) {
	files, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the records of what is published: %w", err)
	}
	var all []Entry
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		var e Entry
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the records of what is published: %w", err)
		}
		if filepath.Ext(path) != suffix || json.Unmarshal(data, &e) != nil || recordPath(dir, e.Key) != path {
			if err := os.Remove(path); err != nil {
				return nil, fmt.Errorf("remove a broken record of what is published: %w", err)
			}
			continue
		}
		all = append(all, e)
	}
	return all, nil
}
