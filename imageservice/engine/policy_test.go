package engine

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// How cosign stores signatures.
const (
	signatureKey      = "dev.cosignproject.cosign/signature"
	signaturePayload  = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureReferrer = "application/vnd.dev.cosign.artifact.sig.v1+json"
)

// cosign signs as the tool of that name does with a key.
type cosign struct {
	key *ecdsa.PrivateKey
	pub string // file
}

func newCosign(t *testing.T) cosign {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	c := cosign{key, filepath.Join(t.TempDir(), "cosign.pub")}
	write(t, c.pub, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	return c
}

func write(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// sign pushes a signature of the digest and returns its manifest. A subject makes it a referrer, else it has cosign's tag.
func (c cosign) sign(t *testing.T, s *server, repo string, d digest.Digest, subject *ocispec.Descriptor) {
	t.Helper()
	payload := []byte(fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, s.addr+"/"+repo, d))
	sum := sha256.Sum256(payload)
	sig, err := ecdsa.SignASN1(rand.Reader, c.key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		s.do(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d.Digest.String(), "application/octet-stream", b)
		return d
	}
	layer := push(signaturePayload, payload)
	layer.Annotations = map[string]string{signatureKey: base64.StdEncoding.EncodeToString(sig)}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Subject: subject,
		Config: push(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []ocispec.Descriptor{layer},
	}
	tag := "sha256-" + d.Encoded() + ".sig"
	if subject != nil {
		m.ArtifactType, m.Config.MediaType, tag = signatureReferrer, signatureReferrer, "sig"
	}
	s.pushDocument(t, repo, tag, m.MediaType, m)
}

// policy rejects all but what is signed with the key.
func (c cosign) policy(s *server) string {
	return fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"sigstoreSigned","keyPath":%q,"signedIdentity":{"type":"matchRepository"}}]}}}`, s.addr, c.pub)
}

func TestSignedPulls(t *testing.T) {
	s, me, other := serve(t, false), newCosign(t), newCosign(t)
	path := filepath.Join(t.TempDir(), "policy.json")
	write(t, path, me.policy(s))
	one := func(body string) imagetest.Image {
		return small(t, imagetest.Spec{Layers: [][]imagetest.File{{{Name: "a", Body: body}}}})
	}
	tagged, referred, foreign, none, inner, bundled := one("tagged"), one("referred"), one("foreign"), one("none"), one("index"), one("bundled")
	for name, img := range map[string]imagetest.Image{"tagged": tagged, "referred": referred, "foreign": foreign, "none": none, "bundled": bundled} {
		s.push(t, "x", name, img)
	}
	index := s.pushIndex(t, "x", "index", map[string]imagetest.Image{"amd64": inner})
	me.sign(t, s, "x", tagged.Manifest.Digest, nil)
	me.sign(t, s, "x", referred.Manifest.Digest, &referred.Manifest)
	other.sign(t, s, "x", foreign.Manifest.Digest, nil)
	me.sign(t, s, "x", index, nil)
	bundle := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.dev.sigstore.bundle.v0.3+json", Digest: none.Manifest.Digest, Size: none.Manifest.Size}
	s.pushDocument(t, "x", "sha256-"+bundled.Manifest.Digest.Encoded(), ocispec.MediaTypeImageIndex, indexOf(bundle))
	e := open(t, Config{Policy: path, Platform: &ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	for tag, want := range map[string]string{"tagged": "", "referred": "", "index": "", "foreign": "not made with the key", "none": "no signature", "bundled": "sigstore bundles"} {
		_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:" + tag})
		if want == "" && err != nil || want != "" && (!errors.Is(err, imageservice.ErrSignatureInvalid) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v, want %q", tag, err, want)
		}
	}
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: "127.0.0.1:1/x"}); !errors.Is(err, imageservice.ErrSignatureInvalid) {
		t.Errorf("a registry that is rejected was asked: %v", err)
	}
	for _, img := range []imagetest.Image{foreign, none} {
		if n := s.gets[img.Layers[0].Digest.String()]; n != 0 {
			t.Errorf("a layer of a refused image was fetched %d times", n)
		}
	}
	x, err := e.Explain(t.Context(), s.addr+"/x", false)
	if err != nil || len(x.Policy) != 1 || !strings.Contains(x.Policy[0].Requirement, me.pub) || x.Policy[0].Scope != "docker "+s.addr {
		t.Errorf("explained as %+v, %v", x.Policy, err)
	}
}

// TestPolicyChanges: a policy or key that changed counts for images that are there, also after a restart, and signatures
// are kept to be judged again without the registry.
func TestPolicyChanges(t *testing.T) {
	s, me, other := serve(t, false), newCosign(t), newCosign(t)
	path := filepath.Join(t.TempDir(), "policy.json")
	write(t, path, me.policy(s))
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	me.sign(t, s, "x", img.Manifest.Digest, nil)
	e := open(t, Config{Policy: path})
	id := pull(t, e, s.addr+"/x:v1").ID
	key, err := os.ReadFile(other.pub)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := os.ReadFile(me.pub)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, step := range []struct {
		name   string
		change func()
		ok     bool
	}{
		{"as pulled", func() {}, true},
		{"key replaced", func() { write(t, me.pub, string(key)) }, false},
		{"restart", func() { e = reopen(t, e) }, false},
		{"key restored", func() { write(t, me.pub, string(mine)) }, true},
		{"policy rejects", func() { write(t, path, `{"default":[{"type":"reject"}]}`) }, false},
		{"policy broken", func() { write(t, path, `{`) }, false},
		{"policy gone", func() { os.Remove(path) }, false},
		{"policy accepts", func() { write(t, path, `{"default":[{"type":"insecureAcceptAnything"}]}`) }, true},
		{"policy asks again", func() { s.Close(); write(t, path, me.policy(s)) }, true},
	} {
		step.change()
		n++
		_, err := e.Prepare(t.Context(), fmt.Sprintf("c%d", n), id, nil)
		if step.ok && err != nil || !step.ok && !errors.Is(err, imageservice.ErrSignatureInvalid) {
			t.Errorf("%s: %v", step.name, err)
		}
	}
	// What runs may be mounted again.
	write(t, path, `{"default":[{"type":"reject"}]}`)
	if _, err := e.Prepare(t.Context(), "c1", id, nil); err != nil {
		t.Errorf("a root file system that is there: %v", err)
	}
}

func TestPolicyOfArchives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.json")
	img := small(t, imagetest.Spec{Names: []string{"x"}})
	docker, err := imagetest.DockerArchive(img)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		policy      string
		oci, docker bool
	}{
		"reject": {`{"default":[{"type":"reject"}]}`, false, false},
		"accept": {`{"default":[{"type":"insecureAcceptAnything"}]}`, true, true},
		"docker": {`{"default":[{"type":"reject"}],"transports":{"docker-archive":{"":[{"type":"insecureAcceptAnything"}]}}}`, false, true},
		"oci":    {`{"default":[{"type":"reject"}],"transports":{"oci-archive":{"":[{"type":"insecureAcceptAnything"}]}}}`, true, false},
	} {
		write(t, path, tc.policy)
		for kind, archive := range map[string][]byte{"oci": ociArchive(t, img), "docker": docker} {
			ok := kind == "oci" && tc.oci || kind == "docker" && tc.docker
			e := open(t, Config{Policy: path})
			_, err := e.Import(t.Context(), bytes.NewReader(archive))
			if ok && err != nil || !ok && !errors.Is(err, imageservice.ErrSignatureInvalid) {
				t.Errorf("%s, %s archive: %v", name, kind, err)
			}
		}
	}
}
