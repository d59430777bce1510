package engine

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
)

// name is a normalised reference: "busybox" is docker.io/library/busybox:latest. With a digest the tag is dropped,
// as everywhere: the digest decides.
type name struct {
	repository string // docker.io/library/busybox
	full       string // with tag or digest
	digest     digest.Digest
}

// parseName normalises a reference.
func parseName(ref string) (name, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return name{}, fmt.Errorf("%w: %q: %w", imageservice.ErrInvalidReference, ref, err)
	}
	n := name{repository: named.Name(), full: named.String()}
	if d, ok := named.(reference.Digested); ok {
		n.digest = d.Digest()
	}
	return n, nil
}

// tags and digests are what an image pulled under n with that target is called.
func (n name) tags() []string {
	if n.digest != "" {
		return nil
	}
	return []string{n.full}
}

func (n name) digests(target digest.Digest) []string {
	return []string{n.repository + "@" + target.String()}
}

// idPrefix is a shortened image id, as crictl takes it.
var idPrefix = regexp.MustCompile(`^(sha256:)?[0-9a-f]{12,64}$`)

// matchID reports whether ref could mean an image id, and the digits to look for.
func matchID(ref string) (string, bool) {
	if !idPrefix.MatchString(ref) {
		return "", false
	}
	return strings.TrimPrefix(ref, "sha256:"), true
}

// pattern matches names of pinned images: "*" stands for any run of characters.
func pattern(p, s string) bool {
	parts := strings.Split(p, "*")
	if len(parts) == 1 {
		return p == s
	}
	rest, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		i := strings.Index(rest, part)
		if i < 0 {
			return false
		}
		rest = rest[i+len(part):]
	}
	return strings.HasSuffix(rest, parts[len(parts)-1])
}
