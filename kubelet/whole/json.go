package whole

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Damaged is the error of a file whose content cannot be what was written: it was torn when the machine crashed, or somebody has
// changed it.
type Damaged struct {
	Path string
	Err  error // what is wrong with it
}

func (d *Damaged) Error() string { return fmt.Sprintf("file %s is damaged: %v", d.Path, d.Err) }

func (d *Damaged) Unwrap() error { return d.Err }

// ReadJSON reads a file that has a T in JSON. The error is a *Damaged if it has not, which includes a T that refuses what it is
// given, and fs.ErrNotExist if there is no file.
func ReadJSON[T any](path string) (T, error) {
	var v, none T
	raw, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	if string(bytes.TrimSpace(raw)) == "null" { // nobody writes that, and it would be taken for an empty T
		return none, &Damaged{path, errors.New("it says null")}
	}
	if err := json.Unmarshal(raw, &v); err != nil {
		return none, &Damaged{path, err}
	}
	return v, nil
}

// WriteJSON is WriteFile of v in JSON, which only its owner may read.
func WriteJSON(path string, v any) error { return writeJSON(path, v, false) }

// WriteLastingJSON is WriteLasting of v in JSON, which only its owner may read.
func WriteLastingJSON(path string, v any) error { return writeJSON(path, v, true) }

func writeJSON(path string, v any, lasting bool) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return write(path, raw, 0o600, lasting)
}
