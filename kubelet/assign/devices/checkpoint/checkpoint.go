// Package checkpoint reads and writes the file in which the upstream kubelet keeps which container has which devices
// (kubelet_internal_checkpoint). Either kubelet goes on with what the other wrote, and tools that read the file find what they
// know.
//
// The names of the types matter: the checksum is made over a text in which they occur.
package checkpoint

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"

	"k8s.io/apimachinery/pkg/util/dump"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// FileName in the directory of device plugins.
const FileName = "kubelet_internal_checkpoint"

// NoNode stands for the NUMA node of devices that have none.
const NoNode = -1

// DevicesPerNUMA lists devices by the NUMA nodes they are near to. A device that is near to several is listed for each.
type DevicesPerNUMA map[int64][]string

// PodDevicesEntry is what one container has of one resource.
type PodDevicesEntry struct {
	PodUID        string
	ContainerName string
	ResourceName  string
	DeviceIDs     DevicesPerNUMA
	// AllocResp is the plugin's ContainerAllocateResponse, as protobuf.
	AllocResp []byte
}

type checkpointData struct {
	PodDeviceEntries []PodDevicesEntry
	// RegisteredDevices are the healthy devices by resource.
	RegisteredDevices map[string][]string
}

type file struct {
	Data     checkpointData
	Checksum uint64
}

func (d checkpointData) checksum() uint64 {
	hash := fnv.New32a()
	fmt.Fprintf(hash, "%v", dump.ForHash(d))
	return uint64(hash.Sum32())
}

// Read reads the file. One that does not exist is empty.
func Read(path string) (entries []PodDevicesEntry, registered map[string][]string, err error) {
	f, err := whole.ReadJSON[file](path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if sum := f.Data.checksum(); err == nil && sum != f.Checksum {
		err = &whole.Damaged{Path: path, Err: fmt.Errorf("checksum is %d, content has %d", f.Checksum, sum)}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read which devices containers have: %w", err)
	}
	return f.Data.PodDeviceEntries, f.Data.RegisteredDevices, nil
}

// Content is what the file has to say, to be written as JSON.
func Content(entries []PodDevicesEntry, registered map[string][]string) any {
	f := file{Data: checkpointData{entries, registered}}
	f.Checksum = f.Data.checksum()
	return f
}
