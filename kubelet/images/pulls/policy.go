package pulls

import (
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Policy says which images that are present a pod must show credentials for.
type Policy struct {
	name kubeletconfig.ImagePullCredentialsVerificationPolicy
	// images and prefixes are the allowlist: whole names, and what names begin with.
	images   map[string]bool
	prefixes []string
}

// NewPolicy reads imagePullCredentialsVerificationPolicy and preloadedImagesVerificationAllowlist. Upstream's default is
// NeverVerifyPreloadedImages.
func NewPolicy(name kubeletconfig.ImagePullCredentialsVerificationPolicy, allow []string) (Policy, error) {
	switch name {
	case "":
		name = kubeletconfig.NeverVerifyPreloadedImages
	case kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages, kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify:
	default:
		return Policy{}, fmt.Errorf("imagePullCredentialsVerificationPolicy: %q: valid options are %q, %q, %q or %q", name,
			kubeletconfig.NeverVerify, kubeletconfig.NeverVerifyPreloadedImages, kubeletconfig.NeverVerifyAllowlistedImages, kubeletconfig.AlwaysVerify)
	}
	p := Policy{name: name, images: map[string]bool{}}
	if len(allow) > 0 && name != kubeletconfig.NeverVerifyAllowlistedImages {
		return p, fmt.Errorf("preloadedImagesVerificationAllowlist: needs imagePullCredentialsVerificationPolicy: %s", kubeletconfig.NeverVerifyAllowlistedImages)
	}
	for _, pattern := range allow {
		if err := p.allow(pattern); err != nil {
			return p, fmt.Errorf("preloadedImagesVerificationAllowlist: %w", err)
		}
	}
	return p, nil
}

// allow takes in a pattern: the name of an image without tag and digest, or the beginning of names, followed by "/*".
func (p *Policy) allow(pattern string) error {
	prefix, wild := strings.CutSuffix(pattern, "*")
	wild = wild && strings.HasSuffix(prefix, "/")
	switch {
	case pattern != strings.TrimSpace(pattern):
		return fmt.Errorf("leading/trailing spaces are not allowed: %s", pattern)
	case pattern == "":
		return errors.New("the supplied pattern is too short")
	case wild && strings.Contains(prefix, "*"), !wild && strings.Contains(pattern, "*"):
		return fmt.Errorf("not a valid wildcard pattern, only patterns ending with '/*' are allowed: %s", pattern)
	case wild && prefix == "/":
		return errors.New("at least registry hostname is required")
	case wild:
		p.prefixes = append(p.prefixes, prefix)
		return nil
	}
	bare, err := bareName(pattern)
	if err != nil {
		return fmt.Errorf("failed to parse as an image name: %w", err)
	}
	if bare != pattern {
		return fmt.Errorf("neither tag nor digest is accepted in an image reference: %s", pattern)
	}
	p.images[pattern] = true
	return nil
}

// verifies tells whether a pod must show credentials for the image that is present. ours says that this kubelet pulled it, or
// may have: others are preloaded.
func (p Policy) verifies(image string, ours bool) bool {
	switch p.name {
	case kubeletconfig.NeverVerify:
		return false
	case kubeletconfig.NeverVerifyPreloadedImages:
		return ours
	case kubeletconfig.NeverVerifyAllowlistedImages:
		return !p.allowed(image)
	}
	return true
}

func (p Policy) allowed(image string) bool {
	bare, err := bareName(image)
	if err != nil {
		bare = image
	}
	if p.images[bare] {
		return true
	}
	for _, prefix := range p.prefixes {
		if strings.HasPrefix(bare, prefix) {
			return true
		}
	}
	return false
}

// bareName takes tag and digest off an image's name, which otherwise stays as the pod wrote it.
func bareName(image string) (string, error) {
	named, err := reference.Parse(image)
	if err != nil {
		return "", err
	}
	if d, ok := named.(reference.Digested); ok {
		image = strings.TrimSuffix(image, "@"+d.Digest().String())
	}
	if t, ok := named.(reference.Tagged); ok {
		image = strings.TrimSuffix(image, ":"+t.Tag())
	}
	return image, nil
}

// sameImage compares names that may be short, as pods write them, or in full, as runtimes list them.
func sameImage(a, b string) bool {
	x, err := reference.ParseDockerRef(a)
	if err != nil {
		return a == b
	}
	y, err := reference.ParseDockerRef(b)
	return err == nil && x.String() == y.String()
}
