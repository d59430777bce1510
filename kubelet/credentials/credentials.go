// Package credentials asks plugins for the credentials of image registries (KEP-2133). A plugin is a program that reads a
// request (which image?) from its standard input and writes an answer (which logins, good for how long?) to its standard
// output. Configuration and protocol are upstream's, so the clouds' plugins work. A plugin may want to know for whom the image
// is: it then gets a token of the pod's service account (KEP-4412).
package credentials

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"

	"golang.org/x/sync/singleflight"
)

// Login is what to tell a registry.
type Login struct{ Username, Password string }

// Plugins are the configured ones. The zero value, and nil, have none.
type Plugins struct {
	list     []*plugin
	accounts Accounts
	log      *slog.Logger
}

// timeout bounds one run of a plugin.
const timeout = time.Minute

// Config is what Load needs.
type Config struct {
	// File is a CredentialProviderConfig, or a directory of such files; empty for no plugins. The plugins are programs in Dir.
	File, Dir string
	// Accounts tells of service accounts, for plugins with tokenAttributes. Nil where there is no API server: such plugins are
	// then asked without a token, or not at all.
	Accounts Accounts
	// Log is told what plugins do wrong.
	Log *slog.Logger
}

// Answer is what one plugin knows for an image: logins, by the pattern of images that they are good for.
type Answer struct {
	Logins map[string]Login
	// Account is the service account for which the plugin was asked; nil when it was asked for none in particular.
	Account *Account
}

// For gives what the plugins know for an image of the pod. A plugin that fails is reported and left out: the pull may work
// without.
func (p *Plugins) For(ctx context.Context, image string, pod *v1.Pod) []Answer {
	if p == nil {
		return nil
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var all []Answer
	for _, one := range p.list {
		if !one.matches(named.Name()) {
			continue
		}
		q, err := one.question(ctx, p.accounts, pod)
		if err == nil && q == nil {
			continue
		}
		var logins map[string]Login
		if err == nil {
			q.image, q.repository = image, named.Name()
			logins, err = one.ask(ctx, *q)
		}
		if err != nil {
			p.log.Warn("credential provider plugin failed", "plugin", one.conf.Name, "image", image, "pod", pod.Namespace+"/"+pod.Name,
				"serviceAccount", pod.Spec.ServiceAccountName, "err", err)
		}
		if len(logins) > 0 {
			all = append(all, Answer{logins, q.account})
		}
	}
	return all
}

// question is what a plugin is asked.
type question struct {
	image, repository string
	// account and its token, and the annotations that the plugin wants; nil and empty when it is asked for no account.
	account     *Account
	token       string
	annotations map[string]string
	// scope is what answers are kept apart by, beside the image: whose answers they are.
	scope string
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

// keys of the cache under which an answer may be, the narrowest first.
func (q question) keys() []string {
	host, _, _ := strings.Cut(q.repository, "/")
	return []string{q.scope + "image:" + q.repository, q.scope + "registry:" + host, q.scope + "global"}
}

// flight is what requests that may share one run of the plugin have in common.
func (q question) flight() string { return q.repository + "\x00" + q.scope + "\x00" + hash(q.token) }

// ask gives the remembered answer, or runs the plugin. Requests for the same image wait for one run.
func (p *plugin) ask(ctx context.Context, q question) (map[string]Login, error) {
	p.mu.Lock()
	for _, key := range q.keys() {
		if e, ok := p.cache[key]; ok && time.Now().Before(e.until) {
			p.mu.Unlock()
			return e.logins, nil
		}
	}
	p.mu.Unlock()
	got, err, _ := p.calls.Do(q.flight(), func() (any, error) { return p.run(context.WithoutCancel(ctx), q) })
	logins, _ := got.(map[string]Login)
	return logins, err
}

func (p *plugin) run(ctx context.Context, q question) (map[string]Login, error) {
	answer, err := p.exec(ctx, q)
	if err != nil {
		return nil, err
	}
	logins := map[string]Login{}
	for key, a := range answer.Auth {
		if q.token != "" && a.Password == q.token && p.conf.TokenAttributes.CacheType != kubeletconfig.TokenServiceAccountTokenCacheType {
			return nil, errors.New("credential provider plugin returned the service account token as the password which is not allowed when service account cache type is not set to 'Token'")
		}
		logins[key] = Login{Username: a.Username, Password: a.Password}
	}
	all := q.keys()
	at, ok := map[credentialprovider.PluginCacheKeyType]string{
		credentialprovider.ImagePluginCacheKeyType: all[0], credentialprovider.RegistryPluginCacheKeyType: all[1], credentialprovider.GlobalPluginCacheKeyType: all[2],
	}[answer.CacheKeyType]
	if !ok {
		return nil, fmt.Errorf("credential provider plugin did not return a valid cacheKeyType: %s", answer.CacheKeyType)
	}
	good := p.conf.DefaultCacheDuration.Duration
	if answer.CacheDuration != nil {
		good = answer.CacheDuration.Duration
	}
	if good > 0 {
		p.keep(at, entry{logins, time.Now().Add(good)})
	}
	return logins, nil
}

// keep remembers an answer, and forgets those that count no more: those for tokens are never asked for again.
func (p *plugin) keep(key string, e entry) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.cache, func(_ string, old entry) bool { return !time.Now().Before(old.until) })
	p.cache[key] = e
}

// exec runs the program once.
func (p *plugin) exec(ctx context.Context, q question) (*credentialprovider.CredentialProviderResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	request := credentialprovider.CredentialProviderRequest{Image: q.image, ServiceAccountToken: q.token, ServiceAccountAnnotations: q.annotations}
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
