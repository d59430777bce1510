package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
)

// setup is one pass over the volumes of a pod. The pod's turn is held meanwhile.
type setup struct {
	*Manager
	pod   *v1.Pod
	state *podState

	result sync.Mutex // guards what follows, and the claims of state while volumes are set up beside each other
	places map[string]Place
	failed []error
}

// all sets up every volume, or, when it only refreshes, those whose content may have changed. What needs no one else is made
// here, one after the other; what waits for other programs is begun first and waits beside it.
func (s *setup) all(ctx context.Context, refresh bool) (map[string]Place, error) {
	s.places = map[string]Place{}
	var slow sync.WaitGroup
	var quick []func()
	for i := range s.pod.Spec.Volumes {
		vol := &s.pod.Spec.Volumes[i]
		switch {
		case vol.Image != nil: // the runtime mounts it
		case s.claimed(vol):
			slow.Add(1)
			go func() {
				defer slow.Done()
				s.claim(ctx, vol, refresh)
			}()
		default:
			kind := s.kind(func(k Kind) bool { return k.Handles(&vol.VolumeSource) })
			if kind == nil {
				s.fail(&SetupError{Volume: vol.Name, Err: fmt.Errorf("%s: %w by this kubelet", SourceName(&vol.VolumeSource), ErrUnsupported)})
				continue
			}
			one := func() { s.one(ctx, kind, Request{Pod: s.pod, Volume: vol}, refresh) }
			if _, ok := kind.(Slow); !ok {
				quick = append(quick, one)
				continue
			}
			slow.Add(1)
			go func() {
				defer slow.Done()
				one()
			}()
		}
	}
	for _, one := range quick {
		one()
	}
	slow.Wait()
	return s.places, errors.Join(s.failed...)
}

// claimed tells whether there is a persistent volume behind the pod's.
func (s *setup) claimed(vol *v1.Volume) bool {
	return vol.PersistentVolumeClaim != nil || vol.Ephemeral != nil || s.cfg.Claims != nil && s.cfg.Claims.Migrates(&vol.VolumeSource)
}

// claim sets up a persistentVolumeClaim or ephemeral volume. A refresh asks the API anew: the volume may have grown.
func (s *setup) claim(ctx context.Context, vol *v1.Volume, refresh bool) {
	s.result.Lock()
	found := s.state.claims[vol.Name]
	s.result.Unlock()
	if found == nil || refresh {
		fresh, err := s.resolve(ctx, vol)
		if err != nil {
			s.fail(err)
			return
		}
		found = fresh
		s.result.Lock()
		s.state.claims[vol.Name] = fresh
		s.result.Unlock()
	}
	src := &found.Volume.Spec.PersistentVolumeSource
	kind := s.kind(func(k Kind) bool { p, ok := k.(Persistent); return ok && p.HandlesPersistent(src) })
	if kind == nil {
		s.fail(&SetupError{Volume: found.Volume.Name, Err: fmt.Errorf("persistent volume of type %s: %w by this kubelet", SourceName(src), ErrUnsupported)})
		return
	}
	s.one(ctx, kind, Request{Pod: s.pod, Volume: vol, Claimed: found}, refresh)
}

func (s *setup) resolve(ctx context.Context, vol *v1.Volume) (*Claimed, error) {
	if s.cfg.Claims == nil {
		return nil, &SetupError{Volume: vol.Name, Err: fmt.Errorf("%s needs an API server and this kubelet has none: %w", SourceName(&vol.VolumeSource), ErrUnsupported)}
	}
	found, err := s.cfg.Claims.Resolve(ctx, s.pod, vol)
	if err == nil {
		err = usedAsItIs(s.pod, vol.Name, found.Block())
	}
	if err != nil {
		return nil, fmt.Errorf("Unable to attach or mount volumes: unmounted volumes=[%s], unattached volumes=[], failed to process volumes=[%s]: %w", //nolint:staticcheck // upstream's words
			vol.Name, vol.Name, err)
	}
	return found, nil
}

// usedAsItIs refuses to mount a device, and to hand out a file system as a device.
func usedAsItIs(pod *v1.Pod, volume string, block bool) error {
	for i := range pod.Spec.InitContainers {
		if err := containerUses(&pod.Spec.InitContainers[i], volume, block); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := containerUses(&pod.Spec.Containers[i], volume, block); err != nil {
			return err
		}
	}
	return nil
}

func containerUses(c *v1.Container, volume string, block bool) error {
	mounted := slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.Name == volume })
	passed := slices.ContainsFunc(c.VolumeDevices, func(d v1.VolumeDevice) bool { return d.Name == volume })
	switch {
	case mounted && block:
		return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeMounts", volume, v1.PersistentVolumeBlock)
	case passed && !block:
		return fmt.Errorf("volume %s has volumeMode %s, but is specified in volumeDevices", volume, v1.PersistentVolumeFilesystem)
	}
	return nil
}

func (s *setup) one(ctx context.Context, kind Kind, req Request, refresh bool) {
	if _, live := kind.(Live); refresh && !live {
		return
	}
	req.Dir = s.Dir(s.pod.UID, kind.Name(), req.Name())
	s.mu.Lock()
	_, again := s.state.placed[req.Volume.Name]
	s.mu.Unlock()
	began := time.Now()
	place, err := kind.Setup(ctx, req)
	if !again {
		s.cfg.Metrics.Operated("volume_mount", Plugin(kind), time.Since(began), err)
	}
	var named *SetupError
	switch {
	case err != nil && errors.As(err, &named):
		s.fail(err)
		return
	case err != nil:
		s.fail(&SetupError{Volume: req.Name(), Err: err})
		return
	}
	s.mu.Lock()
	s.state.placed[req.Volume.Name] = placed{kind, req, place}
	s.mu.Unlock()
	s.result.Lock()
	defer s.result.Unlock()
	s.places[req.Volume.Name] = place
}

func (s *setup) fail(err error) {
	s.result.Lock()
	defer s.result.Unlock()
	s.failed = append(s.failed, err)
}

func (s *setup) kind(ok func(Kind) bool) Kind {
	for _, k := range s.cfg.Kinds {
		if ok(k) {
			return k
		}
	}
	return nil
}
