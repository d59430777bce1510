// Package policy decides which images may be used, by a containers-policy.json(5): whatever the file says of a scope, all
// of its requirements must hold.
//
//	{"default": [{"type": "reject"}],
//	 "transports": {"docker": {
//	    "registry.example/team": [{"type": "sigstoreSigned", "keyPath": "/etc/skiff/cosign.pub",
//	                               "signedIdentity": {"type": "matchRepository"}}]}}}
//
// Of a docker reference the scopes are, from the most to the least specific: the reference itself, its repository, each
// path above that, the registry, *.domain for each domain above the registry's, the transport's "", and the default.
//
// Signatures are those of cosign with a key: a payload that names the digest of a manifest and a reference, and a
// signature of its bytes. Checking one needs no network. What this package cannot check (GPG signatures, certificates of
// Fulcio or a PKI, entries in a Rekor log) refuses the image: a policy is never weakened by what is missing here.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/skiff-node/skiff/imageservice"
)

// The transports that images arrive by.
const (
	Docker        = "docker" // a registry
	DockerArchive = "docker-archive"
	OCIArchive    = "oci-archive"
)

// Policy is a policy that was read.
type Policy struct {
	File       string
	byDefault  []requirement
	transports map[string]map[string][]requirement
}

// Rule is what applies to one image.
type Rule struct {
	File  string
	Scope string // the entry of the file, for people
	all   []requirement
}

// Image is what is known of an image that is judged.
type Image struct {
	Reference string // in full, with tag or digest; may be empty for archives
	// Digests are those of the manifest and of the indexes that led to it: who signs an index signs all it names.
	Digests    []string
	Signatures []Signature
}

// requirement is one element of a list in the file.
type requirement interface {
	check(Image) error
	String() string
	signatures() bool // whether signatures are looked at
}

// Read reads the policy at path.
func Read(path string) (*Policy, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read signature policy: %w", err)
	}
	p, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("signature policy %s: %w", path, err)
	}
	p.File = path
	return p, nil
}

func parse(text []byte) (*Policy, error) {
	var f struct {
		Default    []json.RawMessage                       `json:"default"`
		Transports map[string]map[string][]json.RawMessage `json:"transports"`
	}
	if err := strict(text, &f); err != nil {
		return nil, err
	}
	p := &Policy{transports: map[string]map[string][]requirement{}}
	var err error
	if p.byDefault, err = requirements(f.Default); err != nil {
		return nil, fmt.Errorf("default: %w", err)
	}
	for transport, scopes := range f.Transports {
		p.transports[transport] = map[string][]requirement{}
		for scope, list := range scopes {
			if p.transports[transport][scope], err = requirements(list); err != nil {
				return nil, fmt.Errorf("transports.%s.%q: %w", transport, scope, err)
			}
		}
	}
	return p, nil
}

// Files are those that the policy consists of: itself and its keys.
func (p *Policy) Files() []string {
	files := []string{p.File}
	add := func(all []requirement) {
		for _, q := range all {
			if s, ok := q.(sigstoreSigned); ok {
				files = append(files, s.files...)
			}
		}
	}
	add(p.byDefault)
	for _, scopes := range p.transports {
		for _, all := range scopes {
			add(all)
		}
	}
	return files
}

// strict refuses unknown fields and says on which line what is wrong.
func strict(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("line %d: %w", 1+bytes.Count(text[:min(syntax.Offset, int64(len(text)))], []byte("\n")), err)
	}
	if err == nil && d.More() {
		err = errors.New("something follows the document")
	}
	return err
}

func requirements(list []json.RawMessage) ([]requirement, error) {
	if len(list) == 0 {
		return nil, errors.New("a list of requirements must not be empty; write insecureAcceptAnything or reject")
	}
	out := make([]requirement, 0, len(list))
	for i, raw := range list {
		r, err := parseRequirement(raw)
		if err != nil {
			return nil, fmt.Errorf("requirement %d: %w", i, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRequirement(raw json.RawMessage) (requirement, error) {
	var head struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, err
	}
	switch head.Type {
	case "insecureAcceptAnything":
		return accept{}, strict(raw, &head)
	case "reject":
		return reject{}, strict(raw, &head)
	case "signedBy":
		return unsupported{"signedBy: GPG signatures are not supported here; sign with cosign and use sigstoreSigned with a key"}, nil
	case "sigstoreSigned":
		return parseSigstore(raw)
	}
	return nil, fmt.Errorf("type %q is none of insecureAcceptAnything, reject, signedBy, sigstoreSigned", head.Type)
}

// For returns the rule for an image that arrives by a transport. The reference may be empty.
func (p *Policy) For(transport, reference string) Rule {
	scopes := p.transports[transport]
	for _, scope := range scopesOf(reference) {
		if all, ok := scopes[scope]; ok {
			return Rule{p.File, transport + " " + scope, all}
		}
	}
	if all, ok := scopes[""]; ok {
		return Rule{p.File, transport, all}
	}
	return Rule{p.File, "default", p.byDefault}
}

// scopesOf lists the scopes of a docker reference, the most specific first.
func scopesOf(reference string) []string {
	if reference == "" {
		return nil
	}
	scopes := []string{reference}
	name := repository(reference)
	if name != reference {
		scopes = append(scopes, name)
	}
	for i := strings.LastIndex(name, "/"); i >= 0; i = strings.LastIndex(name, "/") {
		name = name[:i]
		scopes = append(scopes, name)
	}
	for host := name; ; {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return scopes
		}
		scopes = append(scopes, "*."+parent)
		host = parent
	}
}

// repository is a reference without tag and digest.
func repository(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

// NeedsSignatures reports whether signatures decide: then they are to be looked for.
func (r Rule) NeedsSignatures() bool {
	for _, q := range r.all {
		if q.signatures() {
			return true
		}
	}
	return false
}

// Requirements describes what is required, for people.
func (r Rule) Requirements() []string {
	out := make([]string, 0, len(r.all))
	for _, q := range r.all {
		out = append(out, q.String())
	}
	return out
}

// Check judges an image: ErrSignatureInvalid says which requirement of which scope does not hold.
func (r Rule) Check(img Image) error {
	for _, q := range r.all {
		if err := q.check(img); err != nil {
			return fmt.Errorf("%w: policy %s, %s: %w", imageservice.ErrSignatureInvalid, r.File, r.Scope, err)
		}
	}
	return nil
}

// Hopeless is Check before anything is known but that there may be signatures: it fails where none could help.
func (r Rule) Hopeless(img Image) error {
	for _, q := range r.all {
		if q.signatures() {
			continue
		}
		if err := (Rule{r.File, r.Scope, []requirement{q}}).Check(img); err != nil {
			return err
		}
	}
	return nil
}

type accept struct{}

func (accept) check(Image) error { return nil }
func (accept) String() string    { return "anything is accepted" }
func (accept) signatures() bool  { return false }

type reject struct{}

func (reject) check(Image) error { return errors.New("images from here are rejected") }
func (reject) String() string    { return "everything is rejected" }
func (reject) signatures() bool  { return false }

// unsupported stands for what cannot be checked.
type unsupported struct{ why string }

func (u unsupported) check(Image) error { return errors.New(u.why) }
func (u unsupported) String() string    { return "refused: " + u.why }
func (u unsupported) signatures() bool  { return false }
