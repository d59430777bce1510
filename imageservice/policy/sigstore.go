package policy

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// Signature is one signature of an image: what was signed and the signature of its bytes.
type Signature struct {
	Payload []byte `json:"payload"`
	Base64  string `json:"signature"`
}

// sigstoreSigned asks for a signature with one of the keys, over a payload that speaks of this image.
type sigstoreSigned struct {
	keys     []crypto.PublicKey
	files    []string // that hold them
	source   string   // of the keys, for people
	identity identity
}

// parseSigstore reads a requirement of type sigstoreSigned. Keys are read now: a missing one is an error of the policy.
func parseSigstore(raw json.RawMessage) (requirement, error) {
	var f struct {
		Type      string   `json:"type"`
		KeyPath   string   `json:"keyPath"`
		KeyPaths  []string `json:"keyPaths"`
		KeyData   []byte   `json:"keyData"`
		KeyDatas  [][]byte `json:"keyDatas"`
		Fulcio    any      `json:"fulcio"`
		PKI       any      `json:"pki"`
		RekorPath string   `json:"rekorPublicKeyPath"`

		RekorPaths     []string        `json:"rekorPublicKeyPaths"`
		RekorData      []byte          `json:"rekorPublicKeyData"`
		RekorDatas     [][]byte        `json:"rekorPublicKeyDatas"`
		SignedIdentity json.RawMessage `json:"signedIdentity"`
	}
	if err := strict(raw, &f); err != nil {
		return nil, err
	}
	switch {
	case f.Fulcio != nil:
		return unsupported{"sigstoreSigned by a certificate of Fulcio is not supported here; use a key"}, nil
	case f.PKI != nil:
		return unsupported{"sigstoreSigned by a certificate of a PKI is not supported here; use a key"}, nil
	case f.RekorPath != "" || f.RekorPaths != nil || f.RekorData != nil || f.RekorDatas != nil:
		return unsupported{"sigstoreSigned with an entry in a Rekor log is not supported here; leave out rekorPublicKey…"}, nil
	}
	s := sigstoreSigned{identity: repoDigestOrExact{}}
	paths := f.KeyPaths
	if f.KeyPath != "" {
		paths = append(paths, f.KeyPath)
	}
	datas := f.KeyDatas
	if f.KeyData != nil {
		datas = append(datas, f.KeyData)
	}
	if (len(paths) > 0) == (len(datas) > 0) {
		return nil, errors.New("sigstoreSigned needs keyPath, keyPaths, keyData or keyDatas, and just one of them")
	}
	s.source, s.files = "keyData", paths
	for _, path := range paths {
		text, err := readKey(path)
		if err != nil {
			return nil, fmt.Errorf("keyPath: %w", err)
		}
		datas = append(datas, text)
		s.source = strings.Join(paths, ", ")
	}
	for _, text := range datas {
		key, err := publicKey(text)
		if err != nil {
			return nil, fmt.Errorf("key of %s: %w", s.source, err)
		}
		s.keys = append(s.keys, key)
	}
	var err error
	if f.SignedIdentity != nil {
		s.identity, err = parseIdentity(f.SignedIdentity)
	}
	return s, err
}

// readKey reads a file that may be a key, and no device and nothing large.
func readKey(path string) ([]byte, error) {
	const limit = 64 << 10
	fi, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !fi.Mode().IsRegular() || fi.Size() > limit:
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, limit)
	}
	return os.ReadFile(path)
}

func publicKey(text []byte) (crypto.PublicKey, error) {
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("it is not one PUBLIC KEY in PEM form (as cosign.pub is)")
	}
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
		return key, nil
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("an RSA key of %d bits is too short", k.N.BitLen())
		}
		return key, nil
	}
	return nil, fmt.Errorf("keys of type %T are not supported", key)
}

func (s sigstoreSigned) signatures() bool { return true }

func (s sigstoreSigned) String() string {
	return fmt.Sprintf("signed with a key of %s, %s", s.source, s.identity)
}

// check accepts an image with one good signature; else it says why each is bad.
func (s sigstoreSigned) check(img Image) error {
	if len(img.Signatures) == 0 {
		return errors.New("the image has no signature")
	}
	var bad []string
	for i, sig := range img.Signatures {
		err := s.good(img, sig)
		if err == nil {
			return nil
		}
		bad = append(bad, fmt.Sprintf("signature %d: %v", i+1, err))
	}
	return errors.New(strings.Join(bad, "; "))
}

// payload is what cosign signs (containers/image docs, "Signature format"; sigstore/cosign specs/SIGNATURE_SPEC.md).
type payload struct {
	Critical struct {
		Type  string `json:"type"`
		Image struct {
			Digest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
	} `json:"critical"`
}

const payloadType = "cosign container image signature"

func (s sigstoreSigned) good(img Image, sig Signature) error {
	signature, err := base64.StdEncoding.DecodeString(sig.Base64)
	if err != nil {
		return errors.New("it is not base64")
	}
	// The payload is not looked at before it is known who wrote it.
	if !slices.ContainsFunc(s.keys, func(k crypto.PublicKey) bool { return verify(k, sig.Payload, signature) }) {
		return errors.New("it was not made with the key")
	}
	var p payload
	if err := json.Unmarshal(sig.Payload, &p); err != nil {
		return fmt.Errorf("its payload: %w", err)
	}
	switch {
	case p.Critical.Type != payloadType:
		return fmt.Errorf("its type is %q, not %q", p.Critical.Type, payloadType)
	case !slices.Contains(img.Digests, p.Critical.Image.Digest):
		return fmt.Errorf("it is about %s, the image is %s", p.Critical.Image.Digest, strings.Join(img.Digests, " in "))
	}
	return s.identity.match(img.Reference, p.Critical.Identity.Reference)
}

func verify(key crypto.PublicKey, message, signature []byte) bool {
	sum := sha256.Sum256(message)
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(k, sum[:], signature)
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], signature) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, message, signature)
	}
	return false
}
