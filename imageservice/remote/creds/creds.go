// Package creds answers which credential goes to which host.
//
// A credential goes to the host it is meant for, and to no other:
//
//   - What came with the request goes to the registry that its server address names. Without an address it goes to the
//     registry of the reference itself, never to a mirror of it.
//   - An entry of docker's config.json (docs: containers-auth.json(5)) goes to the host it names, mirror or not.
//
// For the registry itself the request goes before the file. In the file, a credential helper for the host goes first;
// then the entry whose key is the longest prefix of host and repository; then the credential store.
package creds

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sort"
	"strings"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// Credential is what is shown to a host. The zero value means nothing.
type Credential struct {
	Username string
	Secret   string // password, or an identity (refresh) token where Username is empty
	Token    string // sent as it is, as a bearer token
	Source   string // for people: where it is from. Never the secret.
}

// Empty reports whether there is nothing to show.
func (c Credential) Empty() bool { return c.Username == "" && c.Secret == "" && c.Token == "" }

// Kind says what kind of credential it is, for people.
func (c Credential) Kind() string {
	switch {
	case c.Token != "":
		return "registry token"
	case c.Username == "" && c.Secret != "":
		return "identity token"
	case c.Username != "":
		return "user " + c.Username
	}
	return "none"
}

// Chain knows the credentials for the hosts of one reference.
type Chain struct {
	registry   string // host of the reference
	repository string
	request    imageservice.Auth
	file       string
	docker     dockerConfig
}

// New reads docker's config.json at path; a missing one holds nothing.
func New(registry, repository string, request imageservice.Auth, path string) (*Chain, error) {
	c := &Chain{registry: registry, repository: repository, request: request, file: path}
	if path == "" {
		return c, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		c.docker, err = parse(b)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", hosts.ErrInvalid, path, err)
	}
	return c, nil
}

// For returns the credential for a host.
func (c *Chain) For(ctx context.Context, h hosts.Host) (Credential, error) {
	if c.requestFor(h) {
		return fromRequest(c.request)
	}
	got, err := c.docker.find(ctx, h.Host, c.repository)
	if err != nil {
		return Credential{}, fmt.Errorf("%w: %s: %w", hosts.ErrInvalid, c.file, err)
	}
	if !got.Empty() {
		got.Source = c.file + ": " + got.Source
	}
	return got, nil
}

// requestFor reports whether the request's credential is meant for the host.
func (c *Chain) requestFor(h hosts.Host) bool {
	if c.request == (imageservice.Auth{ServerAddress: c.request.ServerAddress}) {
		return false
	}
	address := c.request.ServerAddress
	if address == "" || hosts.Canonical(address) == hosts.Canonical(c.registry) {
		return h.Own
	}
	return hosts.Canonical(address) == hosts.Canonical(h.Host)
}

func fromRequest(a imageservice.Auth) (Credential, error) {
	const source = "the request"
	if a.RegistryToken != "" {
		return Credential{Token: a.RegistryToken, Source: source}, nil
	}
	c, err := decode(entry{Auth: a.Auth, Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken})
	if err != nil {
		return c, fmt.Errorf("%w: the request's %w", imageservice.ErrUnauthorized, err)
	}
	c.Source = source
	return c, nil
}

// entry is a credential in any of its forms.
type entry struct {
	Auth          string `json:"auth"` // base64 of user:password
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

func decode(e entry) (Credential, error) {
	switch {
	case e.RegistryToken != "":
		return Credential{Token: e.RegistryToken}, nil
	case e.IdentityToken != "":
		return Credential{Secret: e.IdentityToken}, nil
	case e.Username != "":
		return Credential{Username: e.Username, Secret: e.Password}, nil
	case e.Auth == "":
		return Credential{}, nil
	}
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
	if err != nil {
		return Credential{}, errors.New("credential is not base64")
	}
	user, secret, ok := strings.Cut(string(b), ":")
	if !ok {
		return Credential{}, errors.New("credential is not base64 of user:password")
	}
	return Credential{Username: user, Secret: strings.TrimRight(secret, "\x00")}, nil
}

// dockerConfig is docker's config.json, as far as it holds credentials.
type dockerConfig struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

func parse(b []byte) (dockerConfig, error) {
	var d dockerConfig
	err := json.Unmarshal(b, &d)
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return d, fmt.Errorf("line %d: %w", line(b, syntax.Offset), err)
	case errors.As(err, &wrong):
		return d, fmt.Errorf("line %d: %s: must be %s, not %s", line(b, wrong.Offset), wrong.Field, wrong.Type, wrong.Value)
	}
	return d, err
}

// line counts the lines up to an offset.
func line(b []byte, offset int64) int {
	return strings.Count(string(b[:min(int64(len(b)), max(0, offset))]), "\n") + 1
}

func (d dockerConfig) find(ctx context.Context, host, repository string) (Credential, error) {
	if key, ok := longest(d.CredHelpers, host, repository); ok {
		return askHelper(ctx, d.CredHelpers[key], key, "credHelpers")
	}
	key, ok := longest(d.Auths, host, repository)
	if e := d.Auths[key]; ok && e != (entry{}) {
		c, err := decode(e)
		if err != nil {
			return c, fmt.Errorf("auths %q: %w", key, err)
		}
		c.Source = fmt.Sprintf("auths %q", key)
		return c, nil
	}
	if d.CredsStore != "" {
		return askHelper(ctx, d.CredsStore, storeKey(key, host), "credsStore")
	}
	return Credential{}, nil
}

// longest finds the key with the longest path that covers the repository.
func longest[V any](table map[string]V, host, repository string) (string, bool) {
	var fit []string
	for key := range table {
		if covers(key, host, repository) {
			fit = append(fit, key)
		}
	}
	if len(fit) == 0 {
		return "", false
	}
	sort.Slice(fit, func(i, j int) bool {
		a, b := len(keyPath(fit[i])), len(keyPath(fit[j]))
		return a > b || a == b && fit[i] < fit[j]
	})
	return fit[0], true
}

// covers reports whether a key, a host with or without scheme and path, covers the repository.
func covers(key, host, repository string) bool {
	if hosts.Canonical(key) != hosts.Canonical(host) {
		return false
	}
	path := keyPath(key)
	return path == "" || path == repository || strings.HasPrefix(repository, path+"/")
}

// keyPath is the repository prefix of a key. Keys with a scheme are addresses of the API and have none.
func keyPath(key string) string {
	_, path, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://"), "/")
	path = strings.Trim(path, "/")
	if path == "v1" || path == "v2" {
		return ""
	}
	return path
}

// storeKey is what a credential store calls the host: the key of its empty entry, where there is one.
func storeKey(key, host string) string {
	switch {
	case key != "":
		return key
	case hosts.Canonical(host) == "docker.io":
		return "https://index.docker.io/v1/"
	}
	return host
}
