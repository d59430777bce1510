package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/skiff-node/skiff/imageservice"
)

// credentials answers which user and secret go to a host. What came with the request goes to the registry it
// names (ServerAddress), or else to every host that stands for the registry of the reference. A mirror's own entry in
// docker's config.json goes before what was meant for the registry.
type credentials struct {
	registry   string // host of the reference
	repository string
	request    imageservice.Auth
	docker     dockerConfig
}

func newCredentials(registry, repository string, auth imageservice.Auth, path string) (*credentials, error) {
	c := &credentials{registry: registry, repository: repository, request: auth}
	if path == "" {
		return c, nil
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(b, &c.docker)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errConfig, path, err)
	}
	return c, nil
}

// lookup returns user and secret for a host; an empty user means that the secret is an identity token.
func (c *credentials) lookup(host string) (user, secret string, err error) {
	own := canonical(host) == canonical(c.registry)
	if own && c.requestFor(host) {
		return decode(c.request)
	}
	auth, ok, err := c.docker.find(host, c.repository)
	if err != nil {
		return "", "", err
	}
	if ok {
		return decode(auth)
	}
	if c.requestFor(host) {
		return decode(c.request)
	}
	return "", "", nil
}

// requestFor reports whether the request's credential may go to the host.
func (c *credentials) requestFor(host string) bool {
	if c.request == (imageservice.Auth{ServerAddress: c.request.ServerAddress}) {
		return false
	}
	return c.request.ServerAddress == "" || canonical(c.request.ServerAddress) == canonical(host)
}

// canonical is the bare host of an address, with the names of Docker Hub made one.
func canonical(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	switch host {
	case "registry-1.docker.io", "index.docker.io":
		return "docker.io"
	}
	return host
}

// decode reads a credential in any of its forms.
func decode(a imageservice.Auth) (user, secret string, err error) {
	switch {
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	case a.Username != "":
		return a.Username, a.Password, nil
	case a.Auth != "":
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
		if err != nil {
			return "", "", fmt.Errorf("%w: credential is not base64", imageservice.ErrUnauthorized)
		}
		user, secret, ok := strings.Cut(string(b), ":")
		if !ok {
			return "", "", fmt.Errorf("%w: credential is not of the form user:password", imageservice.ErrUnauthorized)
		}
		return user, strings.TrimRight(secret, "\x00"), nil
	}
	return "", "", nil
}

// withToken adds the request's registry token, which is sent as it is.
func (c *credentials) withToken(hosts docker.RegistryHosts) docker.RegistryHosts {
	if c.request.RegistryToken == "" {
		return hosts
	}
	return func(name string) ([]docker.RegistryHost, error) {
		all, err := hosts(name)
		for i := range all {
			if c.requestFor(all[i].Host) {
				all[i].Authorizer = bearer(c.request.RegistryToken)
			}
		}
		return all, err
	}
}

type bearer string

func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("registry token refused: %w", docker.ErrInvalidAuthorization)
}

// dockerConfig is docker's config.json, as far as it holds credentials.
type dockerConfig struct {
	Auths       map[string]dockerAuth `json:"auths"`
	CredHelpers map[string]string     `json:"credHelpers"`
	CredsStore  string                `json:"credsStore"`
}

type dockerAuth struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
}

// find returns the entry for a host, preferring the one with the longest path that leads to the repository.
func (d dockerConfig) find(host, repository string) (imageservice.Auth, bool, error) {
	for key, helper := range d.CredHelpers {
		if canonical(key) == canonical(host) {
			return askHelper(helper, key)
		}
	}
	best := ""
	for key := range d.Auths {
		if matches(key, host, repository) && len(key) > len(best) {
			best = key
		}
	}
	if a := d.Auths[best]; best != "" && a != (dockerAuth{}) {
		return imageservice.Auth{Username: a.Username, Password: a.Password, Auth: a.Auth, IdentityToken: a.IdentityToken}, true, nil
	}
	if d.CredsStore != "" {
		return askHelper(d.CredsStore, storeKey(best, host))
	}
	return imageservice.Auth{}, false, nil
}

// storeKey is what a credential store calls the host: the key of its empty entry, where there is one.
func storeKey(key, host string) string {
	switch {
	case key != "":
		return key
	case canonical(host) == "docker.io":
		return "https://index.docker.io/v1/"
	}
	return host
}

// matches reports whether a key of config.json, a host with or without scheme and path, covers the repository.
func matches(key, host, repository string) bool {
	if canonical(key) != canonical(host) {
		return false
	}
	bare := strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	_, path, _ := strings.Cut(bare, "/")
	path = strings.Trim(path, "/")
	return path == "" || path == "v1" || path == "v2" || strings.HasPrefix(repository+"/", path+"/")
}

const helperTimeout = 30 * time.Second

// askHelper runs docker-credential-<name> get (docker/docker-credential-helpers). Not knowing the host is no error.
func askHelper(name, server string) (imageservice.Auth, bool, error) {
	if name != filepath.Base(name) {
		return imageservice.Auth{}, false, fmt.Errorf("%w: credential helper %q is not a plain name", errConfig, name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), helperTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "docker-credential-"+name, "get")
	cmd.Stdin = strings.NewReader(server)
	out, err := cmd.Output()
	if err != nil {
		if bytes.Contains(out, []byte("credentials not found")) {
			return imageservice.Auth{}, false, nil
		}
		return imageservice.Auth{}, false, fmt.Errorf("%w: credential helper %s: %w: %s", errConfig, cmd.Path, err, bytes.TrimSpace(out))
	}
	var reply struct{ Username, Secret string }
	if err := json.Unmarshal(out, &reply); err != nil {
		return imageservice.Auth{}, false, fmt.Errorf("%w: credential helper %s: reply: %w", errConfig, cmd.Path, err)
	}
	if reply.Username == "<token>" {
		return imageservice.Auth{IdentityToken: reply.Secret}, true, nil
	}
	return imageservice.Auth{Username: reply.Username, Password: reply.Secret}, true, nil
}
