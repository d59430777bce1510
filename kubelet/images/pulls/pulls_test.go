package pulls

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// bySecret and byAccount are credentials of a pod.
func bySecret(name, hash string) credentials {
	return credentials{KubernetesSecrets: []secret{{UID: "uid-" + name, Namespace: "n", Name: name, CredentialHash: hash}}}
}

func byAccount(name string) credentials {
	return credentials{KubernetesServiceAccounts: []account{{UID: "uid-" + name, Namespace: "n", Name: name}}}
}

var byAll = credentials{NodePodsAccessible: true}

func open(t *testing.T, dir string, name kubeletconfig.ImagePullCredentialsVerificationPolicy) *Records {
	t.Helper()
	p, err := NewPolicy(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: dir, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *Records) mustPull(t *testing.T, image, ref string, with credentials) {
	t.Helper()
	if err := r.Intend(image); err != nil {
		t.Fatal(err)
	}
	r.Pulled(image, ref, with)
}

// allowed asks for a pod that has these credentials, or for one that must not be asked for any.
func (r *Records) allowed(image, ref string, pods ...credentials) bool {
	return r.Allowed(image, ref, func() []credentials { return pods })
}

// TestAllowed pulls with some credentials and asks with others.
func TestAllowed(t *testing.T) {
	for _, tc := range []struct {
		name   string
		pulled []credentials
		image  string
		pod    []credentials
		want   bool
	}{
		{"preloaded", nil, "r/a:1", nil, true},
		{"for all pods", []credentials{byAll}, "r/a:1", nil, true},
		{"for all pods, after a secret", []credentials{bySecret("s", "h"), byAll}, "r/a:1", nil, true},
		{"for all pods, before a secret", []credentials{byAll, bySecret("s", "h")}, "r/a:1", nil, true},
		{"another tag of the same image", []credentials{byAll}, "r/a:2", nil, true},
		{"the same image by another name", []credentials{byAll}, "r/b:1", []credentials{byAll}, false},
		{"none to show", []credentials{bySecret("s", "h")}, "r/a:1", nil, false},
		{"none, where everybody has them", []credentials{bySecret("s", "h")}, "r/a:1", []credentials{byAll}, false},
		{"the same secret", []credentials{bySecret("s", "h")}, "r/a:1", []credentials{bySecret("s", "h")}, true},
		{"the same secret, changed", []credentials{bySecret("s", "h")}, "r/a:1", []credentials{bySecret("s", "h2")}, true},
		{"its content in another secret", []credentials{bySecret("s", "h")}, "r/a:1", []credentials{bySecret("x", "h")}, true},
		{"another secret", []credentials{bySecret("s", "h")}, "r/a:1", []credentials{bySecret("x", "h2")}, false},
		{"no hashes", []credentials{bySecret("s", "")}, "r/a:1", []credentials{bySecret("x", "")}, false},
		{"one of two", []credentials{bySecret("s", "h"), bySecret("x", "h2")}, "r/a:1", []credentials{bySecret("y", "h3"), bySecret("x", "h2")}, true},
		{"the same account", []credentials{byAccount("a")}, "r/a:1", []credentials{byAccount("a")}, true},
		{"another account", []credentials{byAccount("a")}, "r/a:1", []credentials{byAccount("b")}, false},
		{"an account beside a secret", []credentials{bySecret("s", "h"), byAccount("a")}, "r/a:1", []credentials{byAccount("a")}, true},
	} {
		dir := t.TempDir()
		r := open(t, dir, "")
		for _, c := range tc.pulled {
			r.mustPull(t, "r/a:1", "ref", c)
		}
		if got := r.allowed(tc.image, "ref", tc.pod...); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
		if got := open(t, dir, "").allowed(tc.image, "ref", tc.pod...); got != tc.want {
			t.Errorf("%s: after a restart: %v", tc.name, got)
		}
		if left, _ := os.ReadDir(filepath.Join(dir, "pulling")); len(left) != 0 {
			t.Errorf("%s: intents left: %v", tc.name, left)
		}
	}
	if !(*Records)(nil).allowed("a", "ref") {
		t.Error("without records")
	}
	if open(t, t.TempDir(), kubeletconfig.AlwaysVerify).allowed("r/a:1", "ref", byAll) {
		t.Error("AlwaysVerify: a preloaded image was allowed")
	}
	r := open(t, t.TempDir(), kubeletconfig.NeverVerify)
	if r.mustPull(t, "r/a:1", "ref", bySecret("s", "h")); !r.allowed("r/a:1", "ref") {
		t.Error("NeverVerify: a pulled image was refused")
	}
}

func TestCount(t *testing.T) {
	r := open(t, t.TempDir(), "")
	var results []string
	r.cfg.Checked = func(result string) { results = append(results, result) }
	r.mustPull(t, "r/a:1", "ref", bySecret("s", "h"))
	if err := r.Intend("r/b:1"); err != nil {
		t.Fatal(err)
	}
	if pulling, pulled := r.Count(); pulling != 1 || pulled != 1 {
		t.Errorf("%d pulls, %d images", pulling, pulled)
	}
	r.allowed("r/a:1", "ref", bySecret("s", "h"))
	r.allowed("r/a:1", "ref")
	r.allowed("r/c:1", "other")
	if got := strings.Join(results, " "); got != "credentialRecordFound mustAuthenticate credentialPolicyAllowed" {
		t.Errorf("checked: %s", got)
	}
}

// TestLearning: a secret that was good by its content is good by its place from then on, and the other way round.
func TestLearning(t *testing.T) {
	r := open(t, t.TempDir(), "")
	r.mustPull(t, "r/a:1", "ref", bySecret("s", "h"))
	for i, pod := range []credentials{bySecret("s", "h2"), bySecret("x", "h2"), bySecret("x", "h3"), bySecret("y", "h3")} {
		if !r.allowed("r/a:1", "ref", pod) {
			t.Errorf("step %d", i)
		}
	}
	if r.allowed("r/a:1", "ref", bySecret("z", "h")) {
		t.Error("content that is nowhere any more")
	}
}

// TestKilled: a kubelet is killed while it pulls; the next one knows that it is no preloaded image.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	if err := open(t, dir, "").Intend("busybox:1"); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir, "")
	if r.allowed("busybox:1", "ref", byAll) {
		t.Error("allowed what was being pulled")
	}
	fails := func(context.Context) ([]*runtimeapi.Image, error) { return nil, errors.New("away") }
	r.Start(t.Context(), fails)
	if !r.allowed("busybox:2", "ref", byAll) {
		t.Error("the tag that nobody pulled is not known to be the same image yet")
	}
	asked := 0
	list := func(context.Context) ([]*runtimeapi.Image, error) {
		asked++
		return []*runtimeapi.Image{{Id: "other", RepoTags: []string{"docker.io/library/busybox:3"}}, {Id: "ref", RepoTags: []string{"docker.io/library/busybox:1", "docker.io/library/busybox:2"}}}, nil
	}
	r.Start(t.Context(), list)
	r.Start(t.Context(), list)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	if r.allowed("busybox:2", "ref", byAll) || !r.allowed("busybox:3", "other") {
		t.Error("which images were being pulled")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "pulling")); len(left) != 0 {
		t.Errorf("intents left: %v", left)
	}
	if r.mustPull(t, "busybox:1", "ref", byAll); !r.allowed("busybox:2", "ref") {
		t.Error("after a pull")
	}
}

// TestIntents: an intent lasts as long as any pull of the image, and longer when none succeeded in writing its record.
func TestIntents(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, "")
	for range 2 {
		if err := r.Intend("a:1"); err != nil {
			t.Fatal(err)
		}
	}
	r.Failed("a:1")
	if r.allowed("a:1", "ref", byAll) {
		t.Error("one pull still goes on")
	}
	r.Failed("a:1")
	if !r.allowed("a:1", "ref") {
		t.Error("no pull goes on")
	}
	if err := r.Intend("a:1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(r.recordFile("ref"), 0o700); err != nil {
		t.Fatal(err)
	}
	r.Pulled("a:1", "ref", byAll)
	if r.allowed("a:1", "ref", byAll) {
		t.Error("a record that cannot be read allows")
	}
	if err := os.Remove(r.recordFile("ref")); err != nil {
		t.Fatal(err)
	}
	if open(t, dir, "").allowed("a:1", "ref", byAll) {
		t.Error("the pull whose record could not be written is forgotten")
	}
}

// TestFiles: the files are upstream's, and no credentials are in them.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	r := open(t, dir, "")
	if err := r.Intend("r/a:1"); err != nil {
		t.Fatal(err)
	}
	// printf r/a:1 | sha256sum
	raw, err := os.ReadFile(filepath.Join(dir, "pulling", "sha256-7fe943b38cae7983a94472e7f506ac7366daa5054b1294d3544c09b042622516"))
	if want := `{"kind":"ImagePullIntent","apiVersion":"kubelet.config.k8s.io/v1beta1","image":"r/a:1"}`; err != nil || string(raw) != want {
		t.Errorf("%s, %v", raw, err)
	}
	r.Pulled("r/a:1", "ref", bySecret("s", Hash(&runtimeapi.AuthConfig{Username: "u", Password: "parrot"})))
	raw, err = os.ReadFile(r.recordFile("ref"))
	for _, part := range []string{`"kind":"ImagePulledRecord","apiVersion":"kubelet.config.k8s.io/v1beta1"`, `"imageRef":"ref"`, `"credentialMapping":{"r/a":{"kubernetesSecrets":[{"uid":"uid-s","namespace":"n","name":"s","credentialHash":"`} {
		if err != nil || !strings.Contains(string(raw), part) || strings.Contains(string(raw), "parrot") {
			t.Errorf("%s, %v; want %s", raw, err, part)
		}
	}
	// A record of the former version counts; one of something else does not.
	for version, want := range map[string]bool{"kubelet.config.k8s.io/v1alpha1": true, "v1": false} {
		text := strings.Replace(`{"kind":"ImagePulledRecord","apiVersion":"VERSION","imageRef":"ref","credentialMapping":{"r/a":{"nodePodsAccessible":true}}}`, "VERSION", version, 1)
		if err := os.WriteFile(r.recordFile("ref"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := r.allowed("r/a:1", "ref", byAll); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}

func TestPrune(t *testing.T) {
	r := open(t, t.TempDir(), "")
	r.mustPull(t, "a:1", "ref-a", bySecret("s", "h"))
	r.mustPull(t, "b:1", "ref-b", bySecret("s", "h"))
	r.Prune([]string{"ref-b"}, time.Now().Add(-time.Minute))
	if r.allowed("a:1", "ref-a") {
		t.Error("forgotten, though pulled after the images were listed")
	}
	r.Prune([]string{"ref-b"}, time.Now().Add(time.Minute))
	if !r.allowed("a:1", "ref-a") || r.allowed("b:1", "ref-b") {
		t.Error("what is forgotten, and what is not")
	}
}
