package dra

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// noteFile is upstream's name.
const noteFile = "dra_manager_state"

// note is the file that tells which claims are or may be prepared, in upstream's format
// (checkpoint.dra.kubelet.k8s.io/v1 of pkg/kubelet/cm/dra/state).
type note struct{ dir string }

// envelope guards the content by a checksum.
type envelope struct {
	Data     string // content, as JSON
	Checksum uint32 // CRC-32 of Data
}

type content struct {
	metav1.TypeMeta
	ClaimInfoStateList []*claim
}

// load reads the note. The map is never nil.
func (n note) load() (map[types.UID]*claim, error) {
	claims := map[types.UID]*claim{}
	raw, err := os.ReadFile(filepath.Join(n.dir, noteFile))
	if errors.Is(err, fs.ErrNotExist) {
		return claims, nil
	}
	if err != nil {
		return claims, err
	}
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil {
		return claims, fmt.Errorf("read %s: %w", noteFile, err)
	}
	if crc32.ChecksumIEEE([]byte(e.Data)) != e.Checksum {
		return claims, fmt.Errorf("read %s: the checksum is wrong", noteFile)
	}
	var c content
	if err := json.Unmarshal([]byte(e.Data), &c); err != nil {
		return claims, fmt.Errorf("read %s: %w", noteFile, err)
	}
	for _, one := range c.ClaimInfoStateList {
		if one.PodUIDs == nil {
			one.PodUIDs = map[types.UID]struct{}{}
		}
		if one.DriverState == nil {
			one.DriverState = map[string]drivers{}
		}
		claims[one.ClaimUID] = one
	}
	return claims, nil
}

// save writes the note, whole or not at all.
func (n note) save(l *ledger) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := content{TypeMeta: metav1.TypeMeta{Kind: "DRACheckpoint", APIVersion: "checkpoint.dra.kubelet.k8s.io/v1"}, ClaimInfoStateList: []*claim{}}
	for _, uid := range slices.Sorted(maps.Keys(l.claims)) {
		c.ClaimInfoStateList = append(c.ClaimInfoStateList, l.claims[uid])
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	raw, err := json.Marshal(envelope{Data: string(data), Checksum: crc32.ChecksumIEEE(data)})
	if err != nil {
		return err
	}
	return whole.WriteFile(filepath.Join(n.dir, noteFile), raw, 0o600)
}
