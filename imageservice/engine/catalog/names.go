package catalog

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
)

// Name is a normalised reference: "busybox" is docker.io/library/busybox:latest. With a digest the tag is dropped,
// as everywhere: the digest decides.
type Name struct {
	Repository string // docker.io/library/busybox
	Full       string // with tag or digest
	Digest     digest.Digest
}

// ParseName normalises a reference.
func ParseName(ref string) (Name, error) {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return Name{}, fmt.Errorf("%w: %q: %w", imageservice.ErrInvalidReference, ref, err)
	}
	n := Name{Repository: named.Name(), Full: named.String()}
	if d, ok := named.(reference.Digested); ok {
		n.Digest = d.Digest()
	}
	return n, nil
}

// Tags and Digests are what an image pulled under n with that target is called.
func (n Name) Tags() []string {
	if n.Digest != "" {
		return nil
	}
	return []string{n.Full}
}

// Digests are the names by digest.
func (n Name) Digests(target digest.Digest) []string {
	return []string{n.Repository + "@" + target.String()}
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

// normalised are patterns as people write them, with those that are no patterns but names in full.
func normalised(patterns []string) []string {
	out := make([]string, 0, len(patterns))
	for _, p := range patterns {
		if n, err := ParseName(p); err == nil && !strings.Contains(p, "*") {
			p = n.Full
		}
		out = append(out, p)
	}
	return out
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
