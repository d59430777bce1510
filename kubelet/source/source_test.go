package source

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/skiff-node/skiff/kubelet/pod"
)

const manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: i, livenessProbe: {httpGet: {port: 80}}}]}\n"

func TestParsePod(t *testing.T) {
	p, err := ParsePod([]byte(manifest), "/f", "N1", time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	c := p.Spec.Containers[0]
	if p.Name != "web-n1" || p.Namespace != "default" || p.Annotations[AnnotationHash] != string(p.UID) || p.Spec.RestartPolicy != v1.RestartPolicyAlways ||
		c.ImagePullPolicy != v1.PullAlways || c.LivenessProbe.PeriodSeconds != 10 || c.LivenessProbe.HTTPGet.Path != "/" {
		t.Errorf("%+v", p)
	}
	other, _ := ParsePod([]byte(strings.Replace(manifest, "image: i", "image: j", 1)), "/f", "N1", time.Unix(0, 0))
	if other.UID == p.UID {
		t.Error("a changed file gives the same UID")
	}
	for text, want := range map[string]string{
		"kind: Pod":           "kind \"Pod\" of apiVersion \"\"",
		manifest + "foo: 1\n": "unknown field \"foo\"",
		strings.Replace(manifest, "spec: {", "spec: {serviceAccountName: x, ", 1):                                    "serviceAccountName",
		strings.Replace(manifest, "spec: {", "spec: {resourceClaims: [{name: c, resourceClaimName: c}], ", 1):        "static pods may not use ResourceClaims",
		strings.Replace(manifest, "spec: {", "spec: {volumes: [{name: v, secret: {secretName: s}}], ", 1):            "static pods may not refer",
		strings.Replace(manifest, "name: a, image: i", "name: a, image: i, envFrom: [{configMapRef: {name: c}}]", 1): "static pods may not refer",
		strings.Replace(manifest, "image: i, ", "", 1):                                                               "name and image are required",
	} {
		if _, err := ParsePod([]byte(text), "/f", "n", time.Now()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", text, err, want)
		}
	}
}

func TestPullPolicy(t *testing.T) {
	for image, want := range map[string]v1.PullPolicy{"a": v1.PullAlways, "a:latest": v1.PullAlways, "a:1": v1.PullIfNotPresent, "r:5/a": v1.PullAlways,
		"r:5/a:1": v1.PullIfNotPresent, "a@sha256:x": v1.PullIfNotPresent} {
		if got := pullPolicy(image); got != want {
			t.Errorf("%s: %s", image, got)
		}
	}
}

// sink writes down what it is told.
type sink struct {
	mu     sync.Mutex
	told   []string
	static types.UID // the static pod that is still here
}

func (s *sink) say(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = append(s.told, fmt.Sprintf(format, args...))
}

func (s *sink) Update(p *v1.Pod, static bool) { s.say("update %s %v", p.Name, static) }
func (s *sink) Remove(uid types.UID)          { s.say("remove") }
func (s *sink) Wake(types.UID)                {}

func (s *sink) Static(string, string) types.UID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.static
}

// hold says which static pod is still here.
func (s *sink) hold(uid types.UID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.static = uid
}

func (s *sink) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.told {
		if t == what {
			n++
		}
	}
	return n
}

func (s *sink) has(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.told {
		if t == what {
			return true
		}
	}
	return false
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("never: " + what)
}

func TestSource(t *testing.T) {
	dir := t.TempDir()
	client := fake.NewSimpleClientset(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "api", Namespace: "ns", UID: "1", ResourceVersion: "1"}})
	told := &sink{}
	ready := make(chan struct{})
	s := New(Config{Client: client, NodeName: "n1", NodeUID: func() types.UID { return "node" }, Dir: dir, Sink: told,
		Ready: func() { close(ready) }, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-ready
	eventually(t, "pod of the API", func() bool { return told.has("update api false") })
	file := filepath.Join(dir, "web.yaml")
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "static pod", func() bool { return told.has("update web-n1 true") })
	mirror := func() *v1.Pod {
		m, err := client.CoreV1().Pods("default").Get(ctx, "web-n1", metav1.GetOptions{})
		if err != nil {
			return nil
		}
		return m
	}
	eventually(t, "mirror", func() bool { return mirror() != nil })
	if m := mirror(); m.Annotations[pod.AnnotationMirror] == "" || m.OwnerReferences[0].UID != "node" {
		t.Errorf("mirror %+v", m)
	}
	if err := os.WriteFile(file, []byte("no pod"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Pods("ns").Delete(ctx, "api", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "removal", func() bool { return told.has("remove") })
	if mirror() == nil {
		t.Error("a file that cannot be read ended its pod")
	}
	told.hold("it")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the static pod is to end", func() bool { return told.count("remove") == 2 })
	s.Poke()
	if err := os.WriteFile(file, []byte(strings.Replace(manifest, "name: web", "name: other", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pass after that", func() bool { return told.has("update other-n1 true") })
	if mirror() == nil {
		t.Error("the mirror of a static pod that still runs is gone")
	}
	told.hold("")
	s.Poke()
	eventually(t, "mirror gone", func() bool { return mirror() == nil })
}

// TestPretender: a pod of the API that says that it comes from a file is not believed.
func TestPretender(t *testing.T) {
	client := fake.NewSimpleClientset(&v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "liar", Namespace: "ns", UID: "1", ResourceVersion: "1", Annotations: map[string]string{pod.AnnotationSource: "file", "mine": "1"}}})
	told := make(keeper, 1)
	s := New(Config{Client: client, NodeName: "n1", NodeUID: func() types.UID { return "node" }, Sink: told, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	p := <-told
	if pod.Static(p) || pod.Critical(p) || p.Annotations["mine"] != "1" || s.Shown(p) != p {
		t.Errorf("%v", p.Annotations)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// keeper is a sink for one pod.
type keeper chan *v1.Pod

func (k keeper) Update(p *v1.Pod, _ bool) { k <- p }
func (keeper) Remove(types.UID)           {}
func (keeper) Wake(types.UID)             {}

func (keeper) Static(string, string) types.UID { return "" }
