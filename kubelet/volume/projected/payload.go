package projected

import (
	"fmt"
	"maps"

	"github.com/skiff-node/skiff/kubelet/downward"
	"github.com/skiff-node/skiff/kubelet/volume/atomic"
	v1 "k8s.io/api/core/v1"
)

// object is what configMap and secret sources have in common.
type object struct {
	kind, name string
	data       map[string][]byte
	items      []v1.KeyToPath
	mode       int32
	optional   bool
}

// configMapData merges data and binaryData, which never share a key.
func configMapData(cm *v1.ConfigMap) map[string][]byte {
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	maps.Copy(data, cm.BinaryData)
	return data
}

// files maps the object's keys to files: all of them under their own names, or those the items name. A named key that is
// missing is an error unless the source is optional.
func (o object) files() (atomic.Files, error) {
	files := atomic.Files{}
	if len(o.items) == 0 {
		for k, data := range o.data {
			files[k] = atomic.File{Data: data, Mode: o.mode}
		}
		return files, nil
	}
	for _, item := range o.items {
		data, ok := o.data[item.Key]
		if !ok && o.optional {
			continue
		}
		if !ok {
			return nil, fmt.Errorf("references non-existent %s key: %s", o.kind, item.Key)
		}
		mode := o.mode
		if item.Mode != nil {
			mode = *item.Mode
		}
		files[item.Path] = atomic.File{Data: data, Mode: mode}
	}
	return files, nil
}

// downwardFiles writes fields and resources of the pod.
func downwardFiles(pod *v1.Pod, items []v1.DownwardAPIVolumeFile, mode int32, allocatable v1.ResourceList) (atomic.Files, error) {
	files := atomic.Files{}
	for i := range items {
		item := &items[i]
		f := atomic.File{Mode: mode}
		if item.Mode != nil {
			f.Mode = *item.Mode
		}
		var text string
		var err error
		switch {
		case item.FieldRef != nil:
			text, err = downward.Field(pod, item.FieldRef.FieldPath)
		case item.ResourceFieldRef != nil:
			text, err = downward.Resource(pod, "", item.ResourceFieldRef, allocatable)
		default:
			err = fmt.Errorf("neither fieldRef nor resourceFieldRef is set")
		}
		if err != nil {
			return nil, fmt.Errorf("downwardAPI item %q: %w", item.Path, err)
		}
		f.Data = []byte(text)
		files[item.Path] = f
	}
	return files, nil
}

// commonUser is the user all containers of the pod run as, or nil when they differ or one does not say. It owns token
// files, so that a container that is not root can read its token.
func commonUser(pod *v1.Pod) *int64 {
	var pods *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		pods = sc.RunAsUser
	}
	var contexts []*v1.SecurityContext
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			contexts = append(contexts, list[i].SecurityContext)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		contexts = append(contexts, pod.Spec.EphemeralContainers[i].SecurityContext)
	}
	var common *int64
	for _, sc := range contexts {
		user := pods
		if sc != nil && sc.RunAsUser != nil {
			user = sc.RunAsUser
		}
		if user == nil || (common != nil && *common != *user) {
			return nil
		}
		common = user
	}
	return common
}
