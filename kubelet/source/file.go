package source

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/dump"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/kubelet/objects"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// readDir reads the static pods as they are now. A file that cannot be used is reported and left out; a pod already
// running from it goes on with its last good version.
func (s *Source) readDir() map[types.UID]*v1.Pod {
	pods := map[types.UID]*v1.Pod{}
	if s.cfg.Dir == "" {
		return pods
	}
	entries, err := os.ReadDir(s.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.cfg.Log.Warn("cannot read the directory of static pods", "dir", s.cfg.Dir, "err", err)
		return s.files
	}
	for _, e := range entries {
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		path := filepath.Join(s.cfg.Dir, e.Name())
		p, err := s.readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			s.cfg.Log.Warn("static pod file left out", "file", path, "err", err)
			s.keepLast(pods, path)
			continue
		}
		if same := s.statics[p.UID]; same != nil {
			p = same
		}
		pods[p.UID] = p
	}
	return pods
}

// fileAnnotation says which file a static pod is from.
const fileAnnotation = "skiff.dev/static-pod-file"

func (s *Source) keepLast(pods map[types.UID]*v1.Pod, path string) {
	for uid, p := range s.statics {
		if p.Annotations[fileAnnotation] == path {
			pods[uid] = p
		}
	}
}

func (s *Source) readFile(path string) (*v1.Pod, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return ParsePod(raw, path, s.cfg.NodeName, time.Now())
}

// origin is where a static pod comes from: which of the two, its path or address, and onto which node.
type origin struct{ kind, place, node string }

// ParsePod makes a static pod from the content of its file. Its name gets the node's behind it, its UID is a hash of
// content, node and file.
func ParsePod(raw []byte, path, node string, now time.Time) (*v1.Pod, error) {
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict(raw, p); err != nil {
		return nil, fmt.Errorf("not a Pod: %w", err)
	}
	if p.Kind != "Pod" || p.APIVersion != "v1" {
		return nil, fmt.Errorf("kind %q of apiVersion %q: only kind Pod of apiVersion v1 can be a static pod", p.Kind, p.APIVersion)
	}
	return adopt(p, origin{fromFile, path, node}, now)
}

// adopt makes p a static pod of this node.
func adopt(p *v1.Pod, from origin, now time.Time) (*v1.Pod, error) {
	if err := check(p); err != nil {
		return nil, err
	}
	if p.UID == "" {
		h := fnv.New128a()
		fmt.Fprintf(h, "%v", dump.ForHash(p))
		fmt.Fprintf(h, "host:%s", from.node)
		fmt.Fprintf(h, "%s:%s", map[string]string{fromFile: "file", fromURL: "url"}[from.kind], from.place)
		p.UID = types.UID(hex.EncodeToString(h.Sum(nil)))
	}
	p.TypeMeta = metav1.TypeMeta{}
	p.Name = p.Name + "-" + strings.ToLower(from.node)
	if p.Namespace == "" {
		p.Namespace = metav1.NamespaceDefault
	}
	p.Spec.NodeName = from.node
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	p.Annotations[pod.AnnotationSource] = from.kind
	p.Annotations[AnnotationHash] = string(p.UID)
	p.Annotations[AnnotationSeen] = now.Format(time.RFC3339Nano)
	p.Annotations[fileAnnotation] = from.place
	p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	p.Status = v1.PodStatus{Phase: v1.PodPending}
	setDefaults(&p.Spec)
	return p, nil
}

// check refuses what cannot run. Static pods may not refer to objects of the API: they run without one.
func check(p *v1.Pod) error {
	if p.Name == "" {
		return errors.New("metadata.name is missing")
	}
	if len(p.Spec.Containers) == 0 {
		return errors.New("spec.containers is empty")
	}
	seen := map[string]bool{}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if c.Name == "" || c.Image == "" {
				return fmt.Errorf("container %q: name and image are required", c.Name)
			}
			if seen[c.Name] {
				return fmt.Errorf("container name %q is used twice", c.Name)
			}
			seen[c.Name] = true
		}
	}
	if len(p.Spec.EphemeralContainers) > 0 {
		return errors.New("spec.ephemeralContainers: not possible in a static pod")
	}
	if p.Spec.ServiceAccountName != "" {
		return errors.New("spec.serviceAccountName: static pods may not refer to objects of the API")
	}
	for ref := range objects.References(p) {
		return fmt.Errorf("refers to %s: static pods may not refer to objects of the API", ref)
	}
	if len(p.Spec.ResourceClaims) > 0 {
		return errors.New("spec.resourceClaims: static pods may not use ResourceClaims")
	}
	for _, v := range p.Spec.Volumes {
		if v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return fmt.Errorf("volume %q: static pods may not refer to objects of the API", v.Name)
		}
	}
	return nil
}

// notify pokes the source whenever something changes in the directory. That it does not exist yet is no error: until it
// does, only the period counts.
func (s *Source) notify(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		s.cfg.Log.Warn("no notice of changed static pods, they are read each period only", "err", err)
		return
	}
	defer watcher.Close()
	watching := false
	for {
		if !watching && watcher.Add(s.cfg.Dir) == nil {
			watching = true
			s.reread()
		}
		select {
		case <-ctx.Done():
			return
		case event := <-watcher.Events:
			if event.Name == s.cfg.Dir && event.Has(fsnotify.Remove|fsnotify.Rename) {
				watching = false
			}
			s.reread()
		case <-watcher.Errors:
			s.reread()
		case <-time.After(s.cfg.Period):
		}
	}
}

// reread makes the source look again, at the directory as well.
func (s *Source) reread() {
	s.changed.Store(true)
	s.Poke()
}
