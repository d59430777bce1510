package creds

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

const helperScript = `#!/bin/sh
read server
case $server in
helped.test) echo '{"Username":"h","Secret":"s"}';;
token.test) echo '{"Username":"<token>","Secret":"s"}';;
broken.test) echo 'keychain is locked'; exit 1;;
chatty.test) echo 'hunter2';;
*) echo credentials not found in native keychain; exit 1;;
esac
`

const dockerJSON = `{"auths":{
	"plain.test":{"username":"p","password":"q"},
	"https://url.test/v1/":{"auth":"dTp2"},
	"path.test":{"auth":"YTpi"}, "path.test/team":{"auth":"dGVhbTp4"}, "path.test/team/app":{"auth":"YXBwOng="},
	"only.test/team":{"auth":"dGVhbTp4"},
	"https://index.docker.io/v1/":{"auth":"aHViOng="},
	"idle.test":{"identitytoken":"refresh"},
	"mirror.test":{"auth":"bTpu"},
	"garbage.test":{"auth":"%%"}},
	"credHelpers":{"helped.test":"test","token.test":"test","broken.test":"test","chatty.test":"test","unknown.test":"test","evil.test":"../evil","absent.test":"nobody-has-this"}}`

// configured writes a config.json and puts a helper on the PATH.
func configured(t *testing.T, body string) string {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.json")
	for path, content := range map[string]string{filepath.Join(dir, "docker-credential-test"): helperScript, config: body} {
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return config
}

func TestFor(t *testing.T) {
	config := configured(t, dockerJSON)
	request := imageservice.Auth{Username: "r", Password: "s"}
	bound := imageservice.Auth{Username: "r", Password: "s", ServerAddress: "https://other.test/v2/"}
	for name, tc := range map[string]struct {
		repo   string // with registry
		auth   imageservice.Auth
		host   string // of a mirror; default the registry itself
		want   string
		source string
		fails  string
	}{
		"none":                        {repo: "x.test/a", want: "none"},
		"plain":                       {repo: "plain.test/a", want: "p:q", source: `auths "plain.test"`},
		"url":                         {repo: "url.test/a", want: "u:v"},
		"path":                        {repo: "path.test/other/x", want: "a:b"},
		"longer path":                 {repo: "path.test/team/x", want: "team:x", source: `auths "path.test/team"`},
		"longest path, exactly":       {repo: "path.test/team/app", want: "app:x"},
		"longest path, a word longer": {repo: "path.test/team/apple", want: "team:x"},
		"path of another team":        {repo: "only.test/teams/x", want: "none"},
		"hub":                         {repo: "docker.io/library/x", want: "hub:x"},
		"identity token":              {repo: "idle.test/x", want: ":refresh"},
		"not base64":                  {repo: "garbage.test/x", fails: "garbage.test"},
		"request first":               {repo: "plain.test/x", auth: request, want: "r:s", source: "the request"},
		"request, hub":                {repo: "docker.io/library/x", auth: request, want: "r:s"},
		"request, not to a mirror":    {repo: "x.test/x", auth: request, host: "y.test", want: "none"},
		"mirror has its own":          {repo: "x.test/x", auth: request, host: "mirror.test", want: "m:n"},
		"bound elsewhere":             {repo: "x.test/x", auth: bound, want: "none"},
		"bound elsewhere, to there":   {repo: "x.test/x", auth: bound, host: "other.test", want: "r:s"},
		"bound elsewhere, config":     {repo: "plain.test/x", auth: bound, want: "p:q"},
		"registry token":              {repo: "x.test/x", auth: imageservice.Auth{RegistryToken: "t"}, want: "Bearer t"},
		"registry token, mirror":      {repo: "x.test/x", auth: imageservice.Auth{RegistryToken: "t"}, host: "y.test", want: "none"},
		"helper":                      {repo: "helped.test/x", want: "h:s", source: `credHelpers "test"`},
		"helper with token":           {repo: "token.test/x", want: ":s"},
		"helper does not know":        {repo: "unknown.test/x", want: "none"},
		"helper breaks":               {repo: "broken.test/x", fails: "keychain is locked"},
		"helper talks":                {repo: "chatty.test/x", fails: "not JSON"},
		"helper elsewhere":            {repo: "evil.test/x", fails: "plain name"},
		"helper missing":              {repo: "absent.test/x", fails: "docker-credential-nobody-has-this on the PATH"},
	} {
		t.Run(name, func(t *testing.T) {
			registry, repo, _ := strings.Cut(tc.repo, "/")
			c, err := New(registry, repo, tc.auth, config)
			if err != nil {
				t.Fatal(err)
			}
			host := hosts.Host{Host: tc.host}
			if tc.host == "" {
				host = hosts.Host{Host: registry, Own: true}
			}
			got, err := c.For(t.Context(), host)
			if tc.fails != "" {
				if !errors.Is(err, hosts.ErrInvalid) || !strings.Contains(err.Error(), tc.fails) || !strings.Contains(err.Error(), config) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || text(got) != tc.want || !strings.Contains(got.Source, tc.source) {
				t.Errorf("got %s from %q, %v; want %s", text(got), got.Source, err, tc.want)
			}
		})
	}
}

func text(c Credential) string {
	switch {
	case c.Token != "":
		return "Bearer " + c.Token
	case c.Empty():
		return "none"
	}
	return c.Username + ":" + c.Secret
}

func TestCredentialStore(t *testing.T) {
	config := configured(t, `{"auths":{"helped.test":{}},"credsStore":"test"}`)
	for registry, want := range map[string]string{"helped.test": "h:s", "token.test": ":s", "docker.io": "none"} {
		c, err := New(registry, "x", imageservice.Auth{}, config)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.For(t.Context(), hosts.Host{Host: registry, Own: true}); err != nil || text(got) != want {
			t.Errorf("%s: %s, %v", registry, text(got), err)
		}
	}
}

func TestHelperTimesOut(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-slow"), []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := askHelper(ctx, "slow", "x", "credHelpers"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestBrokenConfig(t *testing.T) {
	for body, want := range map[string]string{"{": "line 1", "{\n\"auths\": []}": "line 2: auths", "[]": "line 1"} {
		config := configured(t, body)
		_, err := New("x.test", "", imageservice.Auth{}, config)
		if !errors.Is(err, hosts.ErrInvalid) || !strings.Contains(err.Error(), config) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", body, err)
		}
	}
	if _, err := New("x.test", "", imageservice.Auth{}, filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(dockerJSON), "path.test", "team/app")
	f.Add([]byte(`{"auths":{"":{"auth":"Og=="}}}`), "", "")
	f.Fuzz(func(t *testing.T, b []byte, host, repository string) {
		d, err := parse(b)
		if err != nil {
			return
		}
		d.CredHelpers, d.CredsStore = nil, "" // nothing is run
		c, err := d.find(t.Context(), host, repository)
		if err == nil && !c.Empty() && c.Source == "" {
			t.Error("a credential from nowhere")
		}
	})
}
