package trust

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/policy"
	"github.com/skiff-node/skiff/imageservice/record"
)

// How cosign stores signatures (sigstore/cosign specs/SIGNATURE_SPEC.md): in a manifest whose layers are the payloads,
// found by a tag made of the digest, or as a referrer of it.
const (
	signatureTag      = "%s-%s.sig" // algorithm, hex
	signatureKey      = "dev.cosignproject.cosign/signature"
	signaturePayload  = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureReferrer = "application/vnd.dev.cosign.artifact.sig.v1+json"
	bundleReferrer    = "application/vnd.dev.sigstore.bundle." // newer, not read here
	referrersTag      = "%s-%s"                                // algorithm, hex: where registries lack the referrers API

	maxSignatures = 64      // that are looked at, of one digest
	maxPayload    = 1 << 20 // bytes
)

// Registry is where signatures of an image are, in the repository of the image.
type Registry interface {
	// ResolveTag finds a manifest by its tag; ErrNotFound where there is none.
	ResolveTag(ctx context.Context, tag string) (ocispec.Descriptor, error)
	// Referrers lists the manifests that refer to a digest.
	Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error)
	// Fetch writes a blob or manifest, unverified. The last argument may be nil.
	Fetch(ctx context.Context, d ocispec.Descriptor, w io.Writer, arrived func(int64)) error
}

// Pulled makes what judges an image that is being pulled under a name: signatures are fetched where the rule asks for them.
func Pulled(from Registry, rule policy.Rule, name string) func(context.Context, *record.Image) error {
	return func(ctx context.Context, img *record.Image) error {
		o := record.Origin{Transport: policy.Docker, Name: name, Digests: digestsOf(img)}
		if rule.NeedsSignatures() {
			var err error
			if o.Signatures, err = (source{from}).signatures(ctx, o.Digests); err != nil {
				return fmt.Errorf("fetch signatures: %w", err)
			}
		}
		img.Origins = []record.Origin{o}
		return rule.Check(judged(o))
	}
}

type source struct{ from Registry }

// signatures fetches the signatures of any of the digests. An error counts only where none is found.
func (r source) signatures(ctx context.Context, digests []digest.Digest) ([]record.Signature, error) {
	var all []record.Signature
	var errs []error
	for _, d := range digests {
		manifests, err := r.signatureManifests(ctx, d)
		errs = append(errs, err)
		for _, m := range manifests {
			found, err := r.readSignatures(ctx, m)
			all, errs = append(all, found...), append(errs, err)
		}
	}
	if len(all) > 0 {
		return all[:min(len(all), maxSignatures)], nil
	}
	return nil, errors.Join(errs...)
}

// signatureManifests finds the manifests that hold signatures of a digest.
func (r source) signatureManifests(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	tagged, err := r.from.ResolveTag(ctx, fmt.Sprintf(signatureTag, d.Algorithm(), d.Encoded()))
	switch {
	case err == nil:
		found = append(found, tagged)
	case errors.Is(err, imageservice.ErrNotFound):
		err = nil
	}
	referrers, refErr := r.referrers(ctx, d)
	bundles := 0
	for _, m := range referrers {
		switch {
		case m.ArtifactType == signatureReferrer && len(found) < maxSignatures:
			found = append(found, m)
		case strings.HasPrefix(m.ArtifactType, bundleReferrer):
			bundles++
		}
	}
	switch {
	case len(found) > 0:
		return found, nil
	case err != nil:
		return nil, err
	case bundles > 0:
		return nil, fmt.Errorf("%w: %s has only sigstore bundles, which are not supported: sign with cosign's --new-bundle-format=false", imageservice.ErrSignatureInvalid, d)
	case refErr != nil && !errors.Is(refErr, imageservice.ErrUnavailable):
		return nil, refErr // a registry that merely lacks the API has no referrers
	}
	return nil, nil
}

// referrers lists what refers to a digest, by the API or else by the tag that takes its place (distribution specification,
// "Referrers Tag Schema").
func (r source) referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	found, err := r.from.Referrers(ctx, d)
	if err == nil && len(found) > 0 {
		return found, nil
	}
	tagged, tagErr := r.from.ResolveTag(ctx, fmt.Sprintf(referrersTag, d.Algorithm(), d.Encoded()))
	if tagErr != nil {
		return nil, err
	}
	doc, err := r.small(ctx, tagged)
	if err != nil {
		return nil, err
	}
	var index ocispec.Index
	if err := json.Unmarshal(doc, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", tagged.Digest, err)
	}
	return index.Manifests, nil
}

func (r source) readSignatures(ctx context.Context, d ocispec.Descriptor) ([]record.Signature, error) {
	doc, err := r.small(ctx, d)
	if err != nil {
		return nil, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", d.Digest, err)
	}
	var found []record.Signature
	for _, l := range m.Layers {
		if l.MediaType != signaturePayload || len(found) >= maxSignatures {
			continue
		}
		payload, err := r.small(ctx, l)
		if err != nil {
			return found, err
		}
		found = append(found, record.Signature{Payload: payload, Base64: l.Annotations[signatureKey]})
	}
	return found, nil
}

// small fetches and verifies a small blob, into memory.
func (r source) small(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d.Digest, err, imageservice.ErrCorrupt)
	}
	out := &bounded{limit: maxPayload}
	if err := r.from.Fetch(ctx, d, out, nil); err != nil {
		return nil, fmt.Errorf("fetch %s: %w", d.Digest, err)
	}
	if d.Digest.Algorithm().FromBytes(out.Bytes()) != d.Digest {
		return nil, fmt.Errorf("blob %s does not match its digest: %w", d.Digest, imageservice.ErrCorrupt)
	}
	return out.Bytes(), nil
}

// bounded is a buffer that refuses to grow beyond its limit.
type bounded struct {
	bytes.Buffer
	limit int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("larger than %d bytes: %w", b.limit, imageservice.ErrCorrupt)
	}
	return b.Buffer.Write(p)
}
