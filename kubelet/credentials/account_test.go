package credentials

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// tokenScript is a plugin that notes each request. The password is the token when the pod says "echo" by an annotation.
const tokenScript = `#!/bin/sh
read -r request
echo "$request" >>"$(dirname "$0")/requests"
password=secret
case "$request" in *'"example.org/echo":"'*) password=${request#*'"serviceAccountToken":"'}; password=${password%%'"'*};; esac
printf '{"apiVersion":"credentialprovider.kubelet.k8s.io/v1","kind":"CredentialProviderResponse","cacheKeyType":"Registry","cacheDuration":"1h","auth":{"r.example.com":{"username":"u","password":"%s"}}}' "$password"
`

// cluster is the service accounts of a cluster, by namespace and name. Tokens name pod, account and audience.
type cluster map[string]*v1.ServiceAccount

func (c cluster) ServiceAccount(_ context.Context, namespace, name string) (*v1.ServiceAccount, error) {
	if a := c[namespace+"/"+name]; a != nil {
		return a, nil
	}
	return nil, errors.New("not found")
}

func (c cluster) AccountToken(_ context.Context, pod *v1.Pod, account types.UID, audience string) (string, error) {
	return "token-" + string(pod.UID) + "-" + string(account) + "-" + audience, nil
}

func account(namespace, name string, annotations ...string) *v1.ServiceAccount {
	a := &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + name), Annotations: map[string]string{}}}
	for i := 0; i < len(annotations); i += 2 {
		a.Annotations[annotations[i]] = annotations[i+1]
	}
	return a
}

func podOf(uid, namespace, account string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "p", UID: types.UID(uid)}, Spec: v1.PodSpec{ServiceAccountName: account}}
}

// TestTokens asks a plugin for pods, one after the other, and looks at the requests that it got.
func TestTokens(t *testing.T) {
	accounts := cluster{"n/a": account("n", "a", "example.org/id", "42", "example.org/team", "blue"), "n/b": account("n", "b"), "n/e": account("n", "e", "example.org/id", "1", "example.org/echo", "y")}
	const role = "requiredServiceAccountAnnotationKeys: [example.org/id], optionalServiceAccountAnnotationKeys: [example.org/team, example.org/echo]"
	requestOfA := func(pod string) string {
		return `"serviceAccountToken":"token-` + pod + `-uid-a-aud","serviceAccountAnnotations":{"example.org/id":"42","example.org/team":"blue"}`
	}
	for _, tc := range []struct {
		name, attributes string
		pods             []*v1.Pod
		want             []string // of the account of each answer; "-" for none, "" for no answer
		requests         []string // a part of each
		logged           string
	}{
		{"one run for an account", "requireServiceAccount: true, cacheType: ServiceAccount, " + role, []*v1.Pod{podOf("1", "n", "a"), podOf("2", "n", "a")},
			[]string{"uid-a", "uid-a"}, []string{requestOfA("1")}, ""},
		{"one run for a token", "requireServiceAccount: true, cacheType: Token, " + role, []*v1.Pod{podOf("1", "n", "a"), podOf("2", "n", "a"), podOf("1", "n", "a")},
			[]string{"uid-a", "uid-a", "uid-a"}, []string{requestOfA("1"), requestOfA("2")}, ""},
		{"an annotation is missing", "requireServiceAccount: true, cacheType: Token, " + role, []*v1.Pod{podOf("1", "n", "b")}, []string{""}, nil, ""},
		{"none is wanted", "requireServiceAccount: true, cacheType: Token", []*v1.Pod{podOf("1", "n", "b")}, []string{"uid-b"}, []string{`"serviceAccountToken":"token-1-uid-b-aud"`}, ""},
		{"no account, one required", "requireServiceAccount: true, cacheType: Token", []*v1.Pod{podOf("1", "n", "")}, []string{""}, nil, ""},
		{"no account, none required", "requireServiceAccount: false, cacheType: Token", []*v1.Pod{podOf("1", "n", "")}, []string{"-"}, []string{`"image":"r.example.com/x"`}, ""},
		{"unknown account", "requireServiceAccount: true, cacheType: Token", []*v1.Pod{podOf("1", "n", "z")}, []string{""}, nil, "failed to get service account: not found"},
		{"the token as password", "requireServiceAccount: true, cacheType: Token, " + role, []*v1.Pod{podOf("1", "n", "e")}, []string{"uid-e"}, []string{`"example.org/echo":"y"`}, ""},
		{"the token as password, kept for the account", "requireServiceAccount: true, cacheType: ServiceAccount, " + role, []*v1.Pod{podOf("1", "n", "e")}, []string{""}, []string{`"example.org/echo":"y"`},
			"returned the service account token as the password which is not allowed"},
	} {
		dir := t.TempDir()
		config(t, dir, "serviceAccountTokenAudience: aud, "+tc.attributes)
		var log bytes.Buffer
		p, err := Load(Config{File: filepath.Join(dir, "conf.d"), Dir: dir, Accounts: accounts, Log: slog.New(slog.NewTextHandler(&log, nil))})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		for i, pod := range tc.pods {
			got := ""
			for _, a := range p.For(t.Context(), "r.example.com/x", pod) {
				got = "-"
				if a.Account != nil {
					got = a.Account.UID
				}
			}
			if got != tc.want[i] {
				t.Errorf("%s: pod %d: answered for %q, want %q", tc.name, i, got, tc.want[i])
			}
		}
		raw, _ := os.ReadFile(filepath.Join(dir, "requests"))
		requests := strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n")
		if len(raw) == 0 {
			requests = nil
		}
		if len(requests) != len(tc.requests) {
			t.Errorf("%s: requests %q", tc.name, requests)
			continue
		}
		for i, want := range tc.requests {
			if !strings.Contains(requests[i], want) {
				t.Errorf("%s: request %s, want %s", tc.name, requests[i], want)
			}
		}
		if (tc.logged == "") != (log.Len() == 0) || !strings.Contains(log.String(), tc.logged) || strings.Contains(log.String(), "token-") {
			t.Errorf("%s: logged %s", tc.name, log.String())
		}
	}
}

// config writes a plugin, and a directory with a configuration that has these tokenAttributes and a file that is none.
func config(t *testing.T, dir, attributes string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, "conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"plug": tokenScript, "conf.d/README": "nothing", "conf.d/a.yaml": `
apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers: [{name: plug, matchImages: [r.example.com], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1, tokenAttributes: {` + attributes + `}}]
`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTokenAttributesRefused(t *testing.T) {
	for attributes, want := range map[string]string{
		"requireServiceAccount: true, cacheType: Token":                                                                                                                       "providers[0].tokenAttributes.serviceAccountTokenAudience: Required value",
		"serviceAccountTokenAudience: a, cacheType: Token":                                                                                                                    "providers[0].tokenAttributes.requireServiceAccount: Required value",
		"serviceAccountTokenAudience: a, requireServiceAccount: true":                                                                                                         "providers[0].tokenAttributes.cacheType: Required value: cacheType is required to be set when tokenAttributes is specified. Supported values are: ServiceAccount, Token",
		"serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Sometimes":                                                                                   `providers[0].tokenAttributes.cacheType: Unsupported value: "Sometimes": supported values: "ServiceAccount", "Token"`,
		"serviceAccountTokenAudience: a, requireServiceAccount: false, cacheType: Token, requiredServiceAccountAnnotationKeys: [x]":                                           "providers[0].tokenAttributes.requiredServiceAccountAnnotationKeys: Forbidden: requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set",
		"serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token, requiredServiceAccountAnnotationKeys: [x], optionalServiceAccountAnnotationKeys: [x]": "annotation keys cannot be both required and optional",
		"serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token, requiredServiceAccountAnnotationKeys: [x, x]":                                         "requiredServiceAccountAnnotationKeys: Duplicate value: \"x\"",
		"serviceAccountTokenAudience: a, requireServiceAccount: true, cacheType: Token, optionalServiceAccountAnnotationKeys: [a/b/c]":                                        "optionalServiceAccountAnnotationKeys: Invalid value: \"a/b/c\"",
	} {
		dir := t.TempDir()
		config(t, dir, attributes)
		if _, err := Load(Config{File: filepath.Join(dir, "conf.d"), Dir: dir}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", attributes, err, want)
		}
	}
}
