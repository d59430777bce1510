package dra

import (
	"encoding/json"
	"errors"
	"hash/crc32"
	"io/fs"
	"maps"
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
type note struct {
	path string
	file *whole.Kept
}

func newNote(dir string) note {
	path := filepath.Join(dir, noteFile)
	return note{path, whole.Keep(path)}
}

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
	e, err := whole.ReadJSON[envelope](n.path)
	if errors.Is(err, fs.ErrNotExist) {
		return claims, nil
	}
	if err != nil {
		return claims, err
	}
	if crc32.ChecksumIEEE([]byte(e.Data)) != e.Checksum {
		return claims, &whole.Damaged{Path: n.path, Err: errors.New("the checksum is wrong")}
	}
	var c content
	if err := json.Unmarshal([]byte(e.Data), &c); err != nil {
		return claims, &whole.Damaged{Path: n.path, Err: err}
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

// save writes the note if it has changed, whole or not at all. Who looks at the ledger meanwhile does not wait for the disk.
func (n note) save(l *ledger) error {
	return n.file.Save(func() (any, error) {
		data, err := l.text()
		return envelope{Data: string(data), Checksum: crc32.ChecksumIEEE(data)}, err
	})
}

// text is the ledger as it is noted.
func (l *ledger) text() ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := content{TypeMeta: metav1.TypeMeta{Kind: "DRACheckpoint", APIVersion: "checkpoint.dra.kubelet.k8s.io/v1"}, ClaimInfoStateList: []*claim{}}
	for _, uid := range slices.Sorted(maps.Keys(l.claims)) {
		c.ClaimInfoStateList = append(c.ClaimInfoStateList, l.claims[uid])
	}
	return json.Marshal(c)
}
