// Package trust applies the signature policy to images: when one arrives, and again when a root file system is made on it,
// so that a policy that changed counts for images that are there.
package trust

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/policy"
	"github.com/skiff-node/skiff/imageservice/record"
)

// Guard knows the policy. The file is read again when it or one of its keys changed.
type Guard struct {
	path string // empty: everything is accepted

	mu       sync.Mutex
	current  *policy.Policy
	stamps   map[string]stamp // of the files it was read from
	verdicts map[digest.Digest]verdict
}

// New makes a guard with the policy at path; without a path everything is accepted. It reads nothing yet.
func New(path string) *Guard { return &Guard{path: path} }

// stamp tells one version of a file from another.
type stamp struct {
	ino               uint64
	size, sec, nsec   int64
	changed, changedN int64
}

// verdict is what the current policy says of a record.
type verdict struct {
	of  *record.Image
	err error
}

func stampOf(path string) (stamp, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return stamp{}, err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, fmt.Errorf("stat %s: no inode", path)
	}
	return stamp{st.Ino, st.Size, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec}, nil
}

// read returns the policy as it is now. The caller holds g.mu.
func (g *Guard) read() (*policy.Policy, error) {
	if g.current != nil && g.fresh() {
		return g.current, nil
	}
	p, err := policy.Read(g.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", imageservice.ErrSignatureInvalid, err)
	}
	g.stamps = map[string]stamp{}
	for _, f := range p.Files() {
		if g.stamps[f], err = stampOf(f); err != nil {
			return nil, fmt.Errorf("%w: signature policy: %w", imageservice.ErrSignatureInvalid, err)
		}
	}
	g.current, g.verdicts = p, map[digest.Digest]verdict{}
	return p, nil
}

func (g *Guard) fresh() bool {
	for f, s := range g.stamps {
		if now, err := stampOf(f); err != nil || now != s {
			return false
		}
	}
	return true
}

// Rule is what applies to an image that arrives now. Without a policy it accepts.
func (g *Guard) Rule(transport, name string) (policy.Rule, error) {
	if g.path == "" {
		return policy.Rule{}, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p, err := g.read()
	if err != nil {
		return policy.Rule{}, err
	}
	return p.For(transport, name), nil
}

// Admit judges an image that is there, by any of the ways it arrived.
func (g *Guard) Admit(r *record.Image) error {
	if g.path == "" {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p, err := g.read()
	if err != nil {
		return err
	}
	if v, ok := g.verdicts[r.ID]; ok && v.of == r {
		return v.err
	}
	err = judge(p, r)
	g.verdicts[r.ID] = verdict{r, err}
	return err
}

func judge(p *policy.Policy, r *record.Image) error {
	origins := r.Origins
	if len(origins) == 0 { // it arrived before origins were kept
		for _, name := range append(append([]string(nil), r.Tags...), r.Digests...) {
			origins = append(origins, record.Origin{Transport: policy.Docker, Name: name})
		}
	}
	var errs []error
	for _, o := range origins {
		err := p.For(o.Transport, o.Name).Check(judged(o))
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		errs = []error{imageservice.ErrSignatureInvalid}
	}
	return fmt.Errorf("image %s may not be used now; pull it again if it was signed meanwhile: %w", r.ID, errors.Join(errs...))
}

// judged is an arrival as the policy sees it.
func judged(o record.Origin) policy.Image {
	img := policy.Image{Reference: o.Name}
	for _, d := range o.Digests {
		img.Digests = append(img.Digests, d.String())
	}
	for _, s := range o.Signatures {
		img.Signatures = append(img.Signatures, policy.Signature(s))
	}
	return img
}

// digestsOf are those of the manifest and of the indexes that led to it.
func digestsOf(r *record.Image) []digest.Digest {
	all := []digest.Digest{r.Manifest.Digest}
	for _, d := range r.Nested {
		all = append(all, d.Digest)
	}
	if r.Index != nil {
		all = append(all, r.Index.Digest)
	}
	return all
}

// Imported judges what an archive brings, docker's or else OCI's. It has no signatures, and no scope but that of its kind.
func (g *Guard) Imported(docker bool) func(context.Context, *record.Image) error {
	transport := policy.OCIArchive
	if docker {
		transport = policy.DockerArchive
	}
	return func(_ context.Context, r *record.Image) error {
		o := record.Origin{Transport: transport, Digests: digestsOf(r)}
		rule, err := g.Rule(transport, "")
		if err != nil {
			return err
		}
		r.Origins = []record.Origin{o}
		return rule.Check(judged(o))
	}
}
