package apiserver_test

import (
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-node/skiff/controlplane/apiserver/apiservertest"
)

// TestRestart keeps what was stored, and says (go test -v) how long starting takes and what it costs.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	for _, what := range []string{"empty", "restarted"} {
		began, cpu := time.Now(), cpuTime(t)
		e := apiservertest.StartIn(t, dir, nil)
		t.Logf("%s: ready after %d ms, %d ms of CPU, RSS %s", what, time.Since(began).Milliseconds(), (cpuTime(t) - cpu).Milliseconds(), rss(t))
		k := newKubectl(t, e)
		if what == "restarted" {
			k.want("", "get configmap -n default kept", "kept")
			k.want("", "get service kubernetes", "10.43.0.1")
		}
		eventually(t, "service kubernetes", func() error {
			_, err := k.run("", "get", "service", "kubernetes")
			return err
		})
		if what == "empty" {
			k.want("", "create configmap kept", "created")
		}
		e.Stop()
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func rss(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			return strings.Join(strings.Fields(line)[1:], " ")
		}
	}
	return "unknown"
}

// TestStopEndsWatches stops while clients watch, as kubelets always do.
func TestStopEndsWatches(t *testing.T) {
	e := apiservertest.Start(t, nil)
	c := kubernetes.NewForConfigOrDie(e.Admin(t))
	w, err := c.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	stopped := make(chan struct{})
	go func() { e.Stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(20 * time.Second):
		t.Error("the server waits for a watch to end")
	}
}
