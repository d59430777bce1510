package whole

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync"
)

// Kept is a JSON file that is written when what it says has changed, and then only. It is safe for concurrent use.
type Kept struct {
	path string

	turn    sync.Mutex // held while the file is written
	written bool
	sum     [sha256.Size]byte // of what was written last
}

// Keep makes a Kept of the file at path, which need not exist. What it says before the first Save does not matter.
func Keep(path string) *Kept { return &Kept{path: path} }

// Save writes what content gives. It is asked when it is the call's turn: of calls that come together the last one writes what is newest.
// Whoever guards what the content is made of must do so in content only, so that nobody has to wait for the disk.
func (k *Kept) Save(content func() (any, error)) error {
	k.turn.Lock()
	defer k.turn.Unlock()
	v, err := content()
	if err != nil {
		return err
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write %s: %w", k.path, err)
	}
	sum := sha256.Sum256(raw)
	if k.written && sum == k.sum {
		return nil
	}
	if err := WriteFile(k.path, raw, 0o600); err != nil {
		return err
	}
	k.written, k.sum = true, sum
	return nil
}
