package plugin

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-node/skiff/kubelet/plugin/plugintest"
)

// fakePlugin listens on a registration socket and tells what it was told.
type fakePlugin struct {
	plugintest.Servers
	told chan *registerapi.RegistrationStatus
}

func listen(t *testing.T, path, kind, name string) *fakePlugin {
	t.Helper()
	p := &fakePlugin{told: make(chan *registerapi.RegistrationStatus, 10)}
	info := &registerapi.PluginInfo{Type: kind, Name: name, Endpoint: "/" + name + ".sock", SupportedVersions: []string{"1.0.0"}}
	if err := p.Announce(path, info, func(s *registerapi.RegistrationStatus) { p.told <- s }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// handler tells what happens to it, and refuses plugins by name.
type handler struct {
	calls  chan string
	refuse map[string]bool
}

func (h handler) Register(_ context.Context, name, endpoint string, versions []string) error {
	if h.refuse[name] {
		return errors.New("refused")
	}
	h.calls <- "register " + name + " " + endpoint + " " + versions[0]
	return nil
}

func (h handler) Unregister(name, endpoint string) { h.calls <- "unregister " + name + " " + endpoint }

func TestPluginsComeAndGo(t *testing.T) {
	dir, err := os.MkdirTemp("", "reg") // short: paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	h := handler{calls: make(chan string, 10), refuse: map[string]bool{"bad": true}}
	w, err := New(Config{Dir: dir, Handlers: map[string]Handler{"CSIPlugin": h}})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(want string) {
		t.Helper()
		select {
		case got := <-h.calls:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("not in time: %s", want)
		}
	}
	first := listen(t, filepath.Join(dir, "first"), "CSIPlugin", "first") // it is there before the kubelet
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	expect("register first /first.sock 1.0.0")
	if s := <-first.told; !s.PluginRegistered {
		t.Errorf("told %v", s)
	}
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	second := listen(t, filepath.Join(sub, "second"), "CSIPlugin", "second")
	expect("register second /second.sock 1.0.0")
	<-second.told
	second.Stop()
	expect("unregister second /second.sock")
	listen(t, filepath.Join(sub, "second"), "CSIPlugin", "second")
	expect("register second /second.sock 1.0.0")
	for name, kind := range map[string]string{"bad": "CSIPlugin", "odd": "Toaster"} {
		p := listen(t, filepath.Join(dir, name), kind, name)
		if s := <-p.told; s.PluginRegistered || s.Error == "" {
			t.Errorf("%s was told %v", name, s)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if len(h.calls) != 0 {
		t.Errorf("unexpected %q", <-h.calls)
	}
}
