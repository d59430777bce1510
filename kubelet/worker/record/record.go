// Package record keeps on disk what the node has granted a pod of cpu and memory and what its containers have got of it
// (upstream's allocated_pods_state and actuated_pods_state), one file in each pod's directory, so that it goes with the pod.
//
// The API's status tells both as well, but only what was written there: a kubelet killed before, or while the API was away,
// knows it from here. A pod without a file asks for nothing, or has never run under a kubelet that keeps one; then the status is believed.
package record

import (
	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/podfile"
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

// Files are where it is kept of the pods whose directories are in a directory. Nothing is kept of a pod whose own is not there any
// more: it is being taken down.
func Files(podsDir string) podfile.Kind[Standing] {
	return podfile.Kind[Standing]{PodsDir: podsDir, Name: "resources", Says: "which resources the pod was granted"}
}
