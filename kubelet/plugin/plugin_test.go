package plugin

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// fakePlugin listens on a registration socket and tells what it was told.
type fakePlugin struct {
	registerapi.UnimplementedRegistrationServer
	info *registerapi.PluginInfo
	told chan *registerapi.RegistrationStatus
}

func (p *fakePlugin) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	return p.info, nil
}

func (p *fakePlugin) NotifyRegistrationStatus(_ context.Context, s *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	p.told <- s
	return &registerapi.RegistrationStatusResponse{}, nil
}

func listen(t *testing.T, path, kind, name string) (*fakePlugin, func()) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	p := &fakePlugin{info: &registerapi.PluginInfo{Type: kind, Name: name, Endpoint: "/" + name + ".sock", SupportedVersions: []string{"1.0.0"}},
		told: make(chan *registerapi.RegistrationStatus, 10)}
	s := grpc.NewServer()
	registerapi.RegisterRegistrationServer(s, p)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return p, s.Stop // the socket goes with it
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
	first, _ := listen(t, filepath.Join(dir, "first"), "CSIPlugin", "first") // it is there before the kubelet
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
	second, stop := listen(t, filepath.Join(sub, "second"), "CSIPlugin", "second")
	expect("register second /second.sock 1.0.0")
	<-second.told
	stop()
	expect("unregister second /second.sock")
	_, _ = listen(t, filepath.Join(sub, "second"), "CSIPlugin", "second")
	expect("register second /second.sock 1.0.0")
	for name, kind := range map[string]string{"bad": "CSIPlugin", "odd": "Toaster"} {
		p, _ := listen(t, filepath.Join(dir, name), kind, name)
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
