package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
)

// identity compares the reference that is wanted with the one that was signed (containers-policy.json(5),
// "signedIdentity").
type identity interface {
	match(wanted, signed string) error
	String() string
}

func parseIdentity(raw json.RawMessage) (identity, error) {
	var f struct {
		Type         string `json:"type"`
		Reference    string `json:"dockerReference"`
		Repository   string `json:"dockerRepository"`
		Prefix       string `json:"prefix"`
		SignedPrefix string `json:"signedPrefix"`
	}
	if err := strict(raw, &f); err != nil {
		return nil, fmt.Errorf("signedIdentity: %w", err)
	}
	switch f.Type {
	case "matchExact":
		return exact{}, nil
	case "matchRepoDigestOrExact":
		return repoDigestOrExact{}, nil
	case "matchRepository":
		return sameRepository{}, nil
	case "exactReference":
		if n, err := normal(f.Reference); err != nil || reference.IsNameOnly(n) {
			return nil, fmt.Errorf("signedIdentity: dockerReference %q is not a reference with tag or digest", f.Reference)
		}
		return exactReference(f.Reference), nil
	case "exactRepository":
		if _, err := normal(f.Repository); err != nil {
			return nil, fmt.Errorf("signedIdentity: dockerRepository %q: %w", f.Repository, err)
		}
		return exactRepository(f.Repository), nil
	case "remapIdentity":
		if f.Prefix == "" || f.SignedPrefix == "" {
			return nil, errors.New("signedIdentity: remapIdentity needs prefix and signedPrefix")
		}
		return remap{f.Prefix, f.SignedPrefix}, nil
	}
	return nil, fmt.Errorf("signedIdentity: type %q is none of matchExact, matchRepoDigestOrExact, matchRepository, exactReference, exactRepository, remapIdentity", f.Type)
}

// normal reads a reference without adding a tag.
func normal(s string) (reference.Named, error) { return reference.ParseNormalizedNamed(s) }

// both reads the wanted and the signed reference.
func both(wanted, signed string) (w, s reference.Named, err error) {
	if w, err = normal(wanted); err != nil {
		return nil, nil, fmt.Errorf("the image has no name to compare: %w", err)
	}
	if s, err = normal(signed); err != nil {
		return nil, nil, fmt.Errorf("it is about %q, which is no reference: %w", signed, err)
	}
	return w, s, nil
}

func differ(wanted, signed string) error {
	return fmt.Errorf("it is about %s, wanted is %s", signed, wanted)
}

type exact struct{}

func (exact) String() string { return "for exactly this reference" }
func (exact) match(wanted, signed string) error {
	w, s, err := both(wanted, signed)
	if err != nil {
		return err
	}
	if reference.IsNameOnly(w) || reference.IsNameOnly(s) || w.String() != s.String() {
		return differ(w.String(), s.String())
	}
	return nil
}

type sameRepository struct{}

func (sameRepository) String() string { return "for this repository" }
func (sameRepository) match(wanted, signed string) error {
	w, s, err := both(wanted, signed)
	if err != nil {
		return err
	}
	if w.Name() != s.Name() {
		return differ(w.Name(), s.Name())
	}
	return nil
}

type repoDigestOrExact struct{}

func (repoDigestOrExact) String() string {
	return "for exactly this reference, or for the repository of a digest"
}
func (repoDigestOrExact) match(wanted, signed string) error {
	w, _, err := both(wanted, signed)
	if err != nil {
		return err
	}
	if _, ok := w.(reference.Digested); ok {
		return sameRepository{}.match(wanted, signed)
	}
	return exact{}.match(wanted, signed)
}

type exactReference string

func (e exactReference) String() string { return "for " + string(e) }
func (e exactReference) match(_, signed string) error {
	return exact{}.match(string(e), signed)
}

type exactRepository string

func (e exactRepository) String() string { return "for the repository " + string(e) }
func (e exactRepository) match(_, signed string) error {
	return sameRepository{}.match(string(e), signed)
}

// remap replaces the beginning of the wanted reference before comparing: for mirrors whose images were signed under
// their first name.
type remap struct{ prefix, signed string }

func (r remap) String() string {
	return "for this reference with " + r.signed + " in place of " + r.prefix
}

func (r remap) match(wanted, signed string) error {
	rest, ok := strings.CutPrefix(wanted, r.prefix)
	if ok && (rest == "" || strings.ContainsAny(rest[:1], "/:@")) {
		wanted = r.signed + rest
	}
	return repoDigestOrExact{}.match(wanted, signed)
}
