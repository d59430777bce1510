package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// puller gets an image for one container: its own, or that of a volume.
type puller struct {
	*Runtime
	pod       *v1.Pod
	container *v1.Container
	sandbox   *cri.PodSandboxConfig
	// image as the user named it, and when to pull it.
	image  string
	policy v1.PullPolicy
}

// ensure finds the image, or pulls it if the pull policy says so. Its error is a *Fault.
func (r puller) ensure(ctx context.Context) (*cri.Image, error) {
	p, c := r.pod, r.container
	name, err := withTag(r.image)
	if err != nil {
		msg := fmt.Sprintf("Failed to apply default image tag %q: %v", r.image, err)
		r.cfg.Events.Warning(p, c.Name, "InspectFailed", "%s", msg)
		return nil, &Fault{Reason: ErrInvalidImageName, Message: msg}
	}
	image := &cri.ImageSpec{Image: name, Annotations: p.Annotations}
	present := false
	candidates := sync.OnceValue(func() []candidate { return r.credentials(ctx, name) })
	if r.policy != v1.PullAlways {
		found, err := r.findImage(ctx, image)
		if err != nil {
			msg := fmt.Sprintf("Failed to inspect image %q: %s", r.image, message(err))
			r.cfg.Events.Warning(p, c.Name, "InspectFailed", "%s", msg)
			return nil, &Fault{Reason: ErrImageInspect, Message: msg}
		}
		present = found != nil
		if present && r.allowed(ctx, found, candidates) {
			r.cfg.Events.Normal(p, c.Name, "Pulled", "Container image %q already present on machine and can be accessed by the pod", r.image)
			r.cfg.Metrics.Image(r.policy, true, false)
			return found, nil
		}
	}
	if r.policy == v1.PullNever { // whoever may not use the image is not told that it is there
		msg := fmt.Sprintf("Container image %q is not present with pull policy of Never", r.image)
		r.cfg.Events.Warning(p, c.Name, ErrImageNeverPull, "%s", msg)
		return nil, &Fault{Reason: ErrImageNeverPull, Message: msg}
	}
	r.cfg.Metrics.Image(r.policy, present, true)
	return r.pull(ctx, image, candidates())
}

// allowed tells whether the pod may use the image that is there, or has to show that it can pull it.
func (r puller) allowed(ctx context.Context, found *cri.Image, candidates func() []candidate) bool {
	r.cfg.Pulls.Start(ctx, func(ctx context.Context) ([]*cri.Image, error) {
		resp, err := r.images.ListImages(ctx, &cri.ListImagesRequest{})
		return resp.GetImages(), err
	})
	return r.cfg.Pulls.Allowed(r.image, found.Id, func() []kubeletconfig.ImagePullCredentials {
		var all []kubeletconfig.ImagePullCredentials
		for _, c := range candidates() {
			all = append(all, c.proof)
		}
		return all
	})
}

// withTag adds the tag latest to an image that has neither tag nor digest.
func withTag(image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("couldn't parse image name %q: %w", image, err)
	}
	if reference.IsNameOnly(named) {
		return image + ":latest", nil
	}
	return image, nil
}

// findImage returns nil when the runtime does not have the image.
func (r puller) findImage(ctx context.Context, image *cri.ImageSpec) (*cri.Image, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeout)
	defer cancel()
	resp, err := r.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: image})
	if err != nil {
		return nil, err
	}
	return resp.Image, nil
}

// pull pulls the image with one candidate after the other until one works. At most Config.ParallelPulls run at once.
func (r puller) pull(ctx context.Context, image *cri.ImageSpec, candidates []candidate) (*cri.Image, error) {
	p, c := r.pod, r.container
	began := time.Now()
	r.cfg.Events.Normal(p, c.Name, "Pulling", "Pulling image %q", r.image)
	select {
	case r.pulls <- struct{}{}:
		defer func() { <-r.pulls }()
	case <-ctx.Done():
		return nil, &Fault{Reason: ErrImagePull, Message: ctx.Err().Error()}
	}
	if r.rate != nil {
		if err := r.rate.Wait(ctx); err != nil {
			return nil, &Fault{Reason: ErrImagePull, Message: err.Error()}
		}
	}
	waited := time.Since(began)
	if err := r.cfg.Pulls.Intend(r.image); err != nil {
		return nil, &Fault{Reason: ErrImagePull, Message: fmt.Sprintf("Failed to record image pull intent for container image %q: %v", r.image, err)}
	}
	var errs []error
	for _, one := range candidates {
		resp, err := r.images.PullImage(ctx, &cri.PullImageRequest{Image: image, Auth: one.auth, SandboxConfig: r.sandbox})
		if err != nil {
			errs = append(errs, errors.New(message(err)))
			continue
		}
		found, err := r.pulled(ctx, resp.ImageRef, [2]time.Duration{time.Since(began) - waited, time.Since(began)})
		if found != nil { // else it is not known by which ID the image will be found
			r.cfg.Pulls.Pulled(r.image, found.Id, one.proof)
		}
		return found, err
	}
	if ctx.Err() == nil { // else the runtime may have finished what is no longer waited for
		r.cfg.Pulls.Failed(r.image)
	}
	msg := fmt.Sprintf("failed to pull image %q: %v", r.image, errors.Join(errs...))
	r.cfg.Events.Warning(p, c.Name, "Failed", "Failed to pull image %q: %v", r.image, errors.Join(errs...))
	return nil, &Fault{Reason: ErrImagePull, Message: msg}
}

// pulled reports the pull, which took took[0], with waiting took[1].
func (r puller) pulled(ctx context.Context, ref string, took [2]time.Duration) (*cri.Image, error) {
	p, c := r.pod, r.container
	found, err := r.findImage(ctx, &cri.ImageSpec{Image: ref})
	if err == nil && found == nil {
		err = fmt.Errorf("image %q is gone right after it was pulled", r.image)
	}
	if err != nil {
		return nil, &Fault{Reason: ErrImageInspect, Message: message(err)}
	}
	r.cfg.Metrics.Pulled(p.UID, time.Now().Add(-took[1]), found.Size)
	r.cfg.Events.Normal(p, c.Name, "Pulled", "Successfully pulled image %q in %v (%v including waiting). Image size: %d bytes.", r.image,
		took[0].Truncate(time.Millisecond), took[1].Truncate(time.Millisecond), found.Size)
	return found, nil
}
