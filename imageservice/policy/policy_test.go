package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
)

func TestScopes(t *testing.T) {
	for ref, want := range map[string]string{
		"r.a.test:5000/x/y:v1":          "r.a.test:5000/x/y:v1 r.a.test:5000/x/y r.a.test:5000/x r.a.test:5000 *.a.test:5000 *.test:5000",
		"docker.io/library/b@sha256:aa": "docker.io/library/b@sha256:aa docker.io/library/b docker.io/library docker.io *.io",
		"localhost/x:latest":            "localhost/x:latest localhost/x localhost",
		"localhost:5000/x":              "localhost:5000/x localhost:5000",
		"":                              "",
	} {
		if got := strings.Join(scopesOf(ref), " "); got != want {
			t.Errorf("%s: %s, want %s", ref, got, want)
		}
	}
}

func TestFor(t *testing.T) {
	p, err := parse([]byte(`{"default":[{"type":"reject"}],"transports":{
		"docker":{"":[{"type":"insecureAcceptAnything"}],"r.test":[{"type":"reject"}],"r.test/ok":[{"type":"insecureAcceptAnything"}],"*.b.test":[{"type":"reject"}]},
		"oci-archive":{}}}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		transport, ref, scope string
		ok                    bool
	}{
		{Docker, "other.test/x:1", "docker", true},
		{Docker, "r.test/x:1", "docker r.test", false},
		{Docker, "r.test/ok/x:1", "docker r.test/ok", true},
		{Docker, "r.test/okay:1", "docker r.test", false},
		{Docker, "a.b.test/x:1", "docker *.b.test", false},
		{Docker, "b.test/x:1", "docker", true},
		{OCIArchive, "r.test/ok:1", "default", false},
		{DockerArchive, "", "default", false},
	} {
		r := p.For(tc.transport, tc.ref)
		err := r.Check(Image{Reference: tc.ref})
		if r.Scope != tc.scope || (err == nil) != tc.ok || err != nil && !errors.Is(err, imageservice.ErrSignatureInvalid) {
			t.Errorf("%s %s: scope %q, %v", tc.transport, tc.ref, r.Scope, err)
		}
	}
}

// signer makes signatures as cosign does.
type signer struct {
	key crypto.Signer
	pub string // PEM
}

func newSigner(t testing.TB, kind string) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "rsa":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return signer{key, string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
}

func (s signer) sign(t testing.TB, message string) Signature {
	t.Helper()
	digest, opts := []byte(message), crypto.SignerOpts(crypto.Hash(0))
	if _, ok := s.key.(ed25519.PrivateKey); !ok {
		sum := sha256.Sum256([]byte(message))
		digest, opts = sum[:], crypto.SHA256
	}
	sig, err := s.key.Sign(rand.Reader, digest, opts)
	if err != nil {
		t.Fatal(err)
	}
	return Signature{[]byte(message), base64.StdEncoding.EncodeToString(sig)}
}

func message(reference, digest string) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, reference, digest)
}

// rule makes the rule of a policy with one requirement.
func rule(t *testing.T, requirement string) Rule {
	t.Helper()
	p, err := parse([]byte(`{"default":[` + requirement + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return p.For(Docker, "r.test/x:1")
}

func TestSigned(t *testing.T) {
	const ref, d, indexD = "r.test/x:1", "sha256:aaaa", "sha256:bbbb"
	me, other := newSigner(t, "ecdsa"), newSigner(t, "ecdsa")
	r := rule(t, fmt.Sprintf(`{"type":"sigstoreSigned","keyData":%q,"signedIdentity":{"type":"matchRepository"}}`, base64.StdEncoding.EncodeToString([]byte(me.pub))))
	good := me.sign(t, message("r.test/x", d))
	altered := good
	altered.Payload = []byte(strings.Replace(string(good.Payload), "aaaa", "cccc", 1))
	garbled := good
	garbled.Base64 = "%%"
	for name, tc := range map[string]struct {
		signatures []Signature
		want       string // what the error says; empty: accepted
	}{
		"none":                  {nil, "no signature"},
		"good":                  {[]Signature{good}, ""},
		"of the index":          {[]Signature{me.sign(t, message("r.test/x", indexD))}, ""},
		"one good among bad":    {[]Signature{altered, other.sign(t, message("r.test/x", d)), good}, ""},
		"another key":           {[]Signature{other.sign(t, message("r.test/x", d))}, "not made with the key"},
		"altered":               {[]Signature{altered}, "not made with the key"},
		"not base64":            {[]Signature{garbled}, "not base64"},
		"of another image":      {[]Signature{me.sign(t, message("r.test/x", "sha256:cccc"))}, "it is about sha256:cccc"},
		"of another repository": {[]Signature{me.sign(t, message("r.test/y", d))}, "wanted is r.test/x"},
		"of another kind":       {[]Signature{me.sign(t, strings.Replace(message("r.test/x", d), "cosign container", "atomic container", 1))}, "its type"},
		"not JSON":              {[]Signature{me.sign(t, "yes")}, "its payload"},
	} {
		err := r.Check(Image{Reference: ref, Digests: []string{d, indexD}, Signatures: tc.signatures})
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, imageservice.ErrSignatureInvalid) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	if !r.NeedsSignatures() || r.Hopeless(Image{Reference: ref}) != nil {
		t.Error("signatures decide")
	}
}

func TestKeys(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa", "ed25519"} {
		me, other := newSigner(t, kind), newSigner(t, "ecdsa")
		dir := t.TempDir()
		mine, theirs := filepath.Join(dir, "a.pub"), filepath.Join(dir, "b.pub")
		if err := errors.Join(os.WriteFile(mine, []byte(me.pub), 0o600), os.WriteFile(theirs, []byte(other.pub), 0o600)); err != nil {
			t.Fatal(err)
		}
		img := Image{Reference: "r.test/x:1", Digests: []string{"sha256:aa"}, Signatures: []Signature{me.sign(t, message("r.test/x:1", "sha256:aa"))}}
		for keys, ok := range map[string]bool{
			fmt.Sprintf(`"keyPath":%q`, mine): true, fmt.Sprintf(`"keyPaths":[%q,%q]`, theirs, mine): true, fmt.Sprintf(`"keyPath":%q`, theirs): false,
		} {
			if err := rule(t, `{"type":"sigstoreSigned",`+keys+`}`).Check(img); (err == nil) != ok {
				t.Errorf("%s, %s: %v", kind, keys, err)
			}
		}
	}
}

func TestIdentity(t *testing.T) {
	for _, tc := range []struct {
		identity, wanted, signed string
		ok                       bool
	}{
		{`{"type":"matchExact"}`, "r.test/x:1", "r.test/x:1", true},
		{`{"type":"matchExact"}`, "r.test/x:1", "r.test/x:2", false},
		{`{"type":"matchExact"}`, "r.test/x:1", "r.test/x", false},
		{`{"type":"matchExact"}`, "docker.io/library/x:1", "x:1", true},
		{`{"type":"matchRepository"}`, "r.test/x:1", "r.test/x", true},
		{`{"type":"matchRepository"}`, "r.test/x:1", "r.test/x/y", false},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/x:1", "r.test/x", false},
		{`{"type":"matchRepoDigestOrExact"}`, "r.test/x@sha256:" + strings.Repeat("a", 64), "r.test/x:7", true},
		{`{"type":"exactReference","dockerReference":"u.test/x:1"}`, "r.test/x:1", "u.test/x:1", true},
		{`{"type":"exactReference","dockerReference":"u.test/x:1"}`, "r.test/x:1", "r.test/x:1", false},
		{`{"type":"exactRepository","dockerRepository":"u.test/x"}`, "r.test/x:1", "u.test/x:9", true},
		{`{"type":"remapIdentity","prefix":"m.test/up","signedPrefix":"u.test"}`, "m.test/up/x:1", "u.test/x:1", true},
		{`{"type":"remapIdentity","prefix":"m.test/up","signedPrefix":"u.test"}`, "m.test/upper/x:1", "u.testper/x:1", false},
		{`{"type":"remapIdentity","prefix":"m.test","signedPrefix":"u.test"}`, "u.test/x:1", "u.test/x:1", true},
		{`{"type":"matchExact"}`, "", "r.test/x:1", false},
		{`{"type":"matchExact"}`, "r.test/x:1", "%%", false},
	} {
		i, err := parseIdentity(json.RawMessage(tc.identity))
		if err != nil {
			t.Fatal(err)
		}
		if err := i.match(tc.wanted, tc.signed); (err == nil) != tc.ok {
			t.Errorf("%s: %s signed as %s: %v", tc.identity, tc.wanted, tc.signed, err)
		}
	}
}

func TestBadPolicies(t *testing.T) {
	for text, want := range map[string]string{
		`{`: "EOF", "{\n]": "line 2", `{}`: "default: a list", `{"default":[]}`: "default: a list", `{"default":[{"type":"dance"}]}`: "dance",
		`{"default":[{"type":"reject","x":1}]}`: "unknown field", `{"defaults":[]}`: "unknown field",
		`{"default":[{"type":"reject"}],"transports":{"docker":{"r.test":[]}}}`:                  `transports.docker."r.test"`,
		`{"default":[{"type":"sigstoreSigned"}]}`:                                                "needs keyPath",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/absent"}]}`:                            "/absent",
		`{"default":[{"type":"sigstoreSigned","keyData":"eA=="}]}`:                               "PUBLIC KEY",
		`{"default":[{"type":"sigstoreSigned","keyData":"eA==","signedIdentity":{"type":"x"}}]}`: "PUBLIC KEY",
		`{"default":[{"type":"sigstoreSigned","keyPath":"/a","keyData":"eA=="}]}`:                "just one",
		`{"default":[{"type":"reject"}]} {}`:                                                     "follows",
	} {
		if _, err := parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// TestNotWeakened: what cannot be checked refuses.
func TestNotWeakened(t *testing.T) {
	for _, requirement := range []string{
		`{"type":"signedBy","keyType":"GPGKeys","keyPath":"/x"}`,
		`{"type":"sigstoreSigned","fulcio":{"oidcIssuer":"x"}}`,
		`{"type":"sigstoreSigned","pki":{}}`,
		`{"type":"sigstoreSigned","keyPath":"/x","rekorPublicKeyPath":"/y"}`,
	} {
		r := rule(t, requirement)
		if err := r.Check(Image{Reference: "r.test/x:1"}); !errors.Is(err, imageservice.ErrSignatureInvalid) || !strings.Contains(err.Error(), "not supported") {
			t.Errorf("%s: %v", requirement, err)
		}
		if r.Hopeless(Image{}) == nil || !slices.ContainsFunc(r.Requirements(), func(s string) bool { return strings.Contains(s, "refused") }) {
			t.Errorf("%s: %v", requirement, r.Requirements())
		}
	}
}

func FuzzPolicy(f *testing.F) {
	me := newSigner(f, "ed25519")
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"*.test":[{"type":"insecureAcceptAnything"}]}}}`), "r.test/x:1", []byte("{}"))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","keyData":"`+base64.StdEncoding.EncodeToString([]byte(me.pub))+`","signedIdentity":{"type":"remapIdentity","prefix":"a","signedPrefix":"b"}}]}`), "a/x@sha256:00", []byte(message("x", "y")))
	f.Fuzz(func(t *testing.T, text []byte, ref string, payload []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		r := p.For(Docker, ref)
		// Nobody signed this.
		err = r.Check(Image{Reference: ref, Digests: []string{"sha256:aa"}, Signatures: []Signature{{payload, "AAAA"}}})
		if r.NeedsSignatures() && err == nil {
			t.Errorf("accepted unsigned by %v", r.Requirements())
		}
	})
}
