// Package record keeps on disk what the node has granted a pod of cpu and memory and what its containers have got of it
// (upstream's allocated_pods_state and actuated_pods_state), one file in each pod's directory, so that it goes with the pod.
//
// The API's status tells both as well, but only what was written there: a kubelet killed before, or while the API was away,
// knows it from here. A pod without a file has never run under a kubelet that keeps one; then the status is believed.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/whole"
)

// Standing is where the resources of a pod stand.
type Standing struct {
	// Granted is what the node has agreed to.
	Granted resize.Allocation `json:"granted"`
	// Actual is what running containers have got, by name, and under resize.Whole the pod.
	Actual map[string]Actual `json:"actual,omitempty"`
}

// Actual is what one container has got.
type Actual struct {
	// ID of the container; another one of that name has been started with what was granted then.
	ID        string                  `json:"id,omitempty"`
	Resources v1.ResourceRequirements `json:"resources"`
}

// Dir is where the pods' directories are.
type Dir string

const fileName = "resources"

func (d Dir) path(uid types.UID) string { return filepath.Join(string(d), string(uid), fileName) }

// Load reads what was kept of the pod, nil if nothing was.
func (d Dir) Load(uid types.UID) (*Standing, error) {
	raw, err := os.ReadFile(d.path(uid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s := &Standing{}
	if err := json.Unmarshal(raw, s); err != nil {
		return nil, fmt.Errorf("file of granted resources %s: %w", d.path(uid), err)
	}
	return s, nil
}

// Save keeps it. A pod whose directory is not there any more needs no record: it is being taken down.
func (d Dir) Save(uid types.UID, s *Standing) error {
	raw, err := json.Marshal(s)
	if err != nil {
		return err
	}
	err = whole.WriteFile(d.path(uid), raw, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
