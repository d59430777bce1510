// Package credentials asks plugins for the credentials of image registries (KEP-2133). A plugin is a program that reads a
// request (which image?) from its standard input and writes an answer (which logins, good for how long?) to its standard
// output. Configuration and protocol are upstream's, so the clouds' plugins work.
package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	kubeletconfig "k8s.io/kubelet/config/v1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"

	"golang.org/x/sync/singleflight"
)

// Login is what to tell a registry.
type Login struct{ Username, Password string }

// Plugins are the configured ones. The zero value, and nil, have none.
type Plugins struct {
	list []*plugin
	log  *slog.Logger
}

// timeout bounds one run of a plugin.
const timeout = time.Minute

// Load reads a CredentialProviderConfig; the plugins are programs in dir. With an empty file there are none.
func Load(file, dir string, log *slog.Logger) (*Plugins, error) {
	if file == "" {
		return nil, nil
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read credential provider configuration: %w", err)
	}
	var c kubeletconfig.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return nil, fmt.Errorf("credential provider configuration %s: %w", file, err)
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); c.Kind != "CredentialProviderConfig" || c.APIVersion != want {
		return nil, fmt.Errorf("credential provider configuration %s: apiVersion %q, kind %q: want %q, CredentialProviderConfig", file, c.APIVersion, c.Kind, want)
	}
	p := &Plugins{log: log}
	seen := map[string]bool{}
	for i := range c.Providers {
		one := &c.Providers[i]
		if err := check(one, dir, seen[one.Name]); err != nil {
			return nil, fmt.Errorf("credential provider configuration %s: providers[%d]: %w", file, i, err)
		}
		seen[one.Name] = true
		p.list = append(p.list, &plugin{conf: *one, path: filepath.Join(dir, one.Name), cache: map[string]entry{}})
	}
	return p, nil
}

func check(c *kubeletconfig.CredentialProvider, dir string, twice bool) error {
	var errs []error
	fail := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(c.Name == "" || c.Name != filepath.Base(c.Name) || c.Name == "." || c.Name == "..", "name: %q is no name of a file", c.Name)
	fail(twice, "name: %q is used twice", c.Name)
	fail(len(c.MatchImages) == 0, "matchImages: at least one is required")
	fail(c.DefaultCacheDuration == nil || c.DefaultCacheDuration.Duration < 0, "defaultCacheDuration: required, not negative")
	fail(c.APIVersion != credentialprovider.SchemeGroupVersion.String(), "apiVersion: %q: want %q", c.APIVersion, credentialprovider.SchemeGroupVersion)
	fail(c.TokenAttributes != nil, "tokenAttributes: not supported by this kubelet: leave it out")
	if len(errs) == 0 {
		info, err := os.Stat(filepath.Join(dir, c.Name))
		fail(err != nil || info.IsDir() || info.Mode()&0o111 == 0, "name: there is no program %s", filepath.Join(dir, c.Name))
	}
	return errors.Join(errs...)
}

// For gives what the plugins know for an image, by the pattern of images that it is good for. A plugin that fails is
// reported and left out: the pull may work without.
func (p *Plugins) For(ctx context.Context, image string) map[string]Login {
	all := map[string]Login{}
	if p == nil {
		return all
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return all
	}
	for _, one := range p.list {
		if !one.matches(named.Name()) {
			continue
		}
		logins, err := one.ask(ctx, image, named.Name())
		if err != nil {
			p.log.Warn("credential provider plugin failed", "plugin", one.conf.Name, "image", image, "err", err)
		}
		for key, l := range logins {
			all[key] = l
		}
	}
	return all
}

// plugin is one program, with what it said.
type plugin struct {
	conf  kubeletconfig.CredentialProvider
	path  string
	calls singleflight.Group

	mu    sync.Mutex
	cache map[string]entry
}

type entry struct {
	logins map[string]Login
	until  time.Time
}

func (p *plugin) matches(repository string) bool {
	for _, pattern := range p.conf.MatchImages {
		if Match(pattern, repository) {
			return true
		}
	}
	return false
}

// keys of the cache under which an answer for the image may be, the narrowest first.
func keys(repository string) []string {
	host, _, _ := strings.Cut(repository, "/")
	return []string{"image:" + repository, "registry:" + host, "global"}
}

// ask gives the remembered answer, or runs the plugin. Requests for the same image wait for one run.
func (p *plugin) ask(ctx context.Context, image, repository string) (map[string]Login, error) {
	p.mu.Lock()
	for _, key := range keys(repository) {
		if e, ok := p.cache[key]; ok && time.Now().Before(e.until) {
			p.mu.Unlock()
			return e.logins, nil
		}
	}
	p.mu.Unlock()
	got, err, _ := p.calls.Do(repository, func() (any, error) { return p.run(context.WithoutCancel(ctx), image, repository) })
	logins, _ := got.(map[string]Login)
	return logins, err
}

func (p *plugin) run(ctx context.Context, image, repository string) (map[string]Login, error) {
	answer, err := p.exec(ctx, image)
	if err != nil {
		return nil, err
	}
	logins := map[string]Login{}
	for key, a := range answer.Auth {
		logins[key] = Login{Username: a.Username, Password: a.Password}
	}
	all := keys(repository)
	at, ok := map[credentialprovider.PluginCacheKeyType]string{
		credentialprovider.ImagePluginCacheKeyType: all[0], credentialprovider.RegistryPluginCacheKeyType: all[1], credentialprovider.GlobalPluginCacheKeyType: all[2],
	}[answer.CacheKeyType]
	if !ok {
		return nil, fmt.Errorf("cacheKeyType %q is none of Image, Registry, Global", answer.CacheKeyType)
	}
	good := p.conf.DefaultCacheDuration.Duration
	if answer.CacheDuration != nil {
		good = answer.CacheDuration.Duration
	}
	if good > 0 {
		p.mu.Lock()
		p.cache[at] = entry{logins, time.Now().Add(good)}
		p.mu.Unlock()
	}
	return logins, nil
}

// exec runs the program once.
func (p *plugin) exec(ctx context.Context, image string) (*credentialprovider.CredentialProviderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request := credentialprovider.CredentialProviderRequest{Image: image}
	request.APIVersion, request.Kind = p.conf.APIVersion, "CredentialProviderRequest"
	in, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, p.path, p.conf.Args...)
	cmd.Env = os.Environ()
	for _, e := range p.conf.Env {
		cmd.Env = append(cmd.Env, e.Name+"="+e.Value)
	}
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.WaitDelay = bytes.NewReader(in), &out, &said, time.Second
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(said.String()))
	}
	answer := &credentialprovider.CredentialProviderResponse{}
	if err := json.Unmarshal(out.Bytes(), answer); err != nil {
		return nil, fmt.Errorf("its answer is no JSON: %w", err) // the answer is not shown: it holds secrets
	}
	if answer.APIVersion != p.conf.APIVersion || answer.Kind != "CredentialProviderResponse" {
		return nil, fmt.Errorf("its answer is a %q of %q", answer.Kind, answer.APIVersion)
	}
	return answer, nil
}

// Match tells whether a pattern (https://host/v1/, host, *.host, host:port, host/path) covers a repository.
func Match(pattern, repository string) bool {
	pattern = strings.TrimPrefix(strings.TrimPrefix(pattern, "https://"), "http://")
	pattern = strings.TrimSuffix(pattern, "/")
	pattern = strings.TrimSuffix(strings.TrimSuffix(pattern, "/v1"), "/v2")
	if pattern == "index.docker.io" {
		pattern = "docker.io"
	}
	patternHost, patternPath, _ := strings.Cut(pattern, "/")
	host, repo, _ := strings.Cut(repository, "/")
	if strings.Count(patternHost, ".") != strings.Count(host, ".") {
		return false
	}
	if ok, err := path.Match(patternHost, host); err != nil || !ok {
		return false
	}
	return patternPath == "" || repo == patternPath || strings.HasPrefix(repo, strings.TrimSuffix(patternPath, "/")+"/")
}
