package credentials

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// script is a plugin: it notes that it ran, checks the request, and answers with its arguments.
const script = `#!/bin/sh
echo run >>"$(dirname "$0")/runs"
read -r request
case "$request" in *'"kind":"CredentialProviderRequest"'*'"image":"'*) ;; *) echo "bad request: $request" >&2; exit 1;; esac
[ "$1" != fail ] || { echo no way >&2; exit 3; }
printf '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"%s","cacheDuration":"%s","auth":{"*.example.com":{"username":"u","password":"%s"}}}' "$1" "$2" "$SECRET"
`

func load(t *testing.T, args string) (*Plugins, func() int) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "plug"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(file, []byte(`
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
- name: plug
  matchImages: ["*.example.com"]
  defaultCacheDuration: 1h
  apiVersion: credentialprovider.kubelet.k8s.io/v1
  args: [`+args+`]
  env: [{name: SECRET, value: parrot}]
`), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := Load(Config{File: file, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return p, func() int {
		raw, _ := os.ReadFile(filepath.Join(dir, "runs"))
		return strings.Count(string(raw), "run")
	}
}

func TestFor(t *testing.T) {
	ctx := context.Background()
	pod := &v1.Pod{}
	for name, c := range map[string]struct {
		args   string
		images []string
		runs   int
	}{
		"by image":    {`Image, 1h`, []string{"a.example.com/x:1", "a.example.com/x:2", "a.example.com/y"}, 2},
		"by registry": {`Registry, 1h`, []string{"a.example.com/x", "a.example.com/y", "b.example.com/x"}, 2},
		"global":      {`Global, 1h`, []string{"a.example.com/x", "b.example.com/y"}, 1},
		"not kept":    {`Global, 0s`, []string{"a.example.com/x", "a.example.com/x"}, 2},
	} {
		p, runs := load(t, c.args)
		for _, image := range c.images {
			if got := p.For(ctx, image, pod); len(got) != 1 || got[0].Account != nil || got[0].Logins["*.example.com"] != (Login{"u", "parrot"}) {
				t.Errorf("%s: %s: %v", name, image, got)
			}
		}
		if runs() != c.runs {
			t.Errorf("%s: %d runs, want %d", name, runs(), c.runs)
		}
		if got := p.For(ctx, "elsewhere.org/x", pod); len(got) != 0 || runs() != c.runs {
			t.Errorf("%s: asked for an image it is not for: %v", name, got)
		}
	}
	for _, args := range []string{"fail, x", "Nonsense, 1h"} {
		p, _ := load(t, args)
		if got := p.For(ctx, "a.example.com/x", pod); len(got) != 0 {
			t.Errorf("%s: %v", args, got)
		}
	}
	if got := (*Plugins)(nil).For(ctx, "x", pod); len(got) != 0 {
		t.Error("no plugins")
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.yaml")
	head := "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\n"
	for text, want := range map[string]string{
		"kind: CredentialProviderConfig":   "apiVersion",
		head + "provider: []":              "provider",
		head + "providers: []":             "providers: Required value: at least 1 item in plugins is required",
		head + "providers: [{name: ../x}]": `providers[0].name: Invalid value: "../x": provider name cannot contain '/'`,
		head + "providers: [{name: x}]":    "providers[0].matchImages: Required value: at least 1 item in matchImages is required",
		head + "providers: [{name: x, matchImages: [a], defaultCacheDuration: 1m, apiVersion: v2}]":                                   `providers[0].apiVersion: Unsupported value: "v2": supported values: "credentialprovider.kubelet.k8s.io/v1"`,
		head + "providers: [{name: x, matchImages: [a], defaultCacheDuration: 1m, apiVersion: credentialprovider.kubelet.k8s.io/v1}]": "plugin binary executable",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(Config{File: file, Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if p, err := Load(Config{Dir: dir}); p != nil || err != nil {
		t.Error(p, err)
	}
}

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, repository string
		want                bool
	}{
		{"docker.io", "docker.io/library/x", true}, {"https://index.docker.io/v1/", "docker.io/library/x", true},
		{"*.azurecr.io", "a.azurecr.io/x", true}, {"*.azurecr.io", "a.b.azurecr.io/x", false},
		{"r.io:8080/path", "r.io:8080/path/x", true}, {"r.io:8080/path", "r.io:8080/pathology", false}, {"r.io", "r.io:8080/x", false},
	} {
		if Match(c.pattern, c.repository) != c.want {
			t.Errorf("%s %s", c.pattern, c.repository)
		}
	}
}
