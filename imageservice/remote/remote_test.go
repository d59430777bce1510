package remote

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
)

func TestCheckHosts(t *testing.T) {
	for name, tc := range map[string]struct{ file, want string }{
		"empty":        {"", ""},
		"full":         {"server = \"https://a\"\ncapabilities = [\"pull\"]\n[host.\"http://b:5\"]\nca = [\"x\", \"y\"]\nclient = [[\"c\", \"k\"]]\nskip_verify = true\ndial_timeout = \"1s\"\n[host.\"http://b:5\".header]\nx = \"y\"\n", ""},
		"no toml":      {"server = \n", "line 1"},
		"server":       {"server = \"http://\"\n", "is not a server"},
		"capability":   {"capabilities = [\"dance\"]\n", "dance"},
		"host timeout": {"[host.\"b\"]\ndial_timeout = \"soon\"\n", "dial_timeout"},
		"ca":           {"ca = 7\n", "ca"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "hosts.toml")
			if err := os.WriteFile(path, []byte(tc.file), 0o600); err != nil {
				t.Fatal(err)
			}
			err := checkHosts(path)
			if (err == nil) != (tc.want == "") || err != nil && (!strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), path)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if err := checkHosts(filepath.Join(t.TempDir(), "absent")); err != nil {
		t.Error(err)
	}
}

func FuzzParseHosts(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"b\"]\nca = \"c\"\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _ = parseHosts(b) })
}

func TestCredentials(t *testing.T) {
	dir := t.TempDir()
	helper := filepath.Join(dir, "docker-credential-test")
	script := "#!/bin/sh\nread server\ncase $server in\nhelped.test) echo '{\"Username\":\"h\",\"Secret\":\"s\"}';;\ntoken.test) echo '{\"Username\":\"<token>\",\"Secret\":\"s\"}';;\nbroken.test) echo oops; exit 1;;\n*) echo credentials not found in native keychain; exit 1;;\nesac\n"
	config := filepath.Join(dir, "config.json")
	body := `{"auths":{
		"plain.test":{"username":"p","password":"q"},
		"https://url.test/v1/":{"auth":"dTp2"},
		"path.test":{"auth":"YTpi"}, "path.test/team":{"auth":"dGVhbTp4"},
		"https://index.docker.io/v1/":{"auth":"aHViOng="},
		"mirror.test":{"auth":"bTpu"}},
		"credHelpers":{"helped.test":"test","token.test":"test","broken.test":"test","unknown.test":"test","evil.test":"../evil"}}`
	for path, content := range map[string]string{helper: script, config: body} {
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	request := imageservice.Auth{Username: "r", Password: "s"}
	bound := imageservice.Auth{Username: "r", Password: "s", ServerAddress: "https://other.test/v2/"}
	for name, tc := range map[string]struct {
		registry, repo string
		auth           imageservice.Auth
		host           string
		user, secret   string
		fails          bool
	}{
		"none":                    {registry: "x.test", host: "x.test"},
		"plain":                   {registry: "plain.test", host: "plain.test", user: "p", secret: "q"},
		"url":                     {registry: "url.test", host: "url.test", user: "u", secret: "v"},
		"path":                    {registry: "path.test", repo: "other/x", host: "path.test", user: "a", secret: "b"},
		"longer path":             {registry: "path.test", repo: "team/x", host: "path.test", user: "team", secret: "x"},
		"hub":                     {registry: "docker.io", host: "registry-1.docker.io", user: "hub", secret: "x"},
		"request first":           {registry: "plain.test", auth: request, host: "plain.test", user: "r", secret: "s"},
		"request, hub":            {registry: "docker.io", auth: request, host: "registry-1.docker.io", user: "r", secret: "s"},
		"request to a mirror":     {registry: "x.test", auth: request, host: "y.test", user: "r", secret: "s"},
		"mirror has its own":      {registry: "x.test", auth: request, host: "mirror.test", user: "m", secret: "n"},
		"bound elsewhere":         {registry: "x.test", auth: bound, host: "x.test"},
		"bound elsewhere, config": {registry: "plain.test", auth: bound, host: "plain.test", user: "p", secret: "q"},
		"helper":                  {registry: "helped.test", host: "helped.test", user: "h", secret: "s"},
		"helper with token":       {registry: "token.test", host: "token.test", secret: "s"},
		"helper does not know":    {registry: "unknown.test", host: "unknown.test"},
		"helper breaks":           {registry: "broken.test", host: "broken.test", fails: true},
		"helper elsewhere":        {registry: "evil.test", host: "evil.test", fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := newCredentials(tc.registry, tc.repo, tc.auth, config)
			if err != nil {
				t.Fatal(err)
			}
			user, secret, err := c.lookup(tc.host)
			if user != tc.user || secret != tc.secret || (err != nil) != tc.fails {
				t.Errorf("got %q, %q, %v", user, secret, err)
			}
		})
	}
	if err := os.WriteFile(config, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newCredentials("x.test", "", imageservice.Auth{}, config); err == nil || !strings.Contains(err.Error(), config) {
		t.Errorf("broken config.json: %v", err)
	}
}
