//go:build root

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// A server that finds a keeper of another build upgrades it in place, and one whose binary cannot take over goes on with the
// old one. Containers do not notice.
func TestKeeperIsUpgraded(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("upgraded")
	box := h.runSandbox(config)
	counter := h.start(box, containerConfig("counter", "trap 'exit 7' TERM; i=0; while true; do echo $i; i=$((i+1)); sleep 0.01; done"), config)
	log := h.status(counter).LogPath
	pid := h.keeperPid()

	second := filepath.Join(h.dir, "second", "skiff-keeper")
	build := exec.Command("go", "build", "-tags", "seccomp", "-ldflags", "-X main.version=second", "-o", second, "github.com/skiff-node/skiff/cmd/skiff-keeper")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	unfit := filepath.Join(h.dir, "unfit")
	if err := os.WriteFile(unfit, []byte("#!/bin/sh\necho I am no keeper\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		binary, line, build string
	}{
		{second, "keeper_upgrade = false", "unknown"},
		{unfit, "", "unknown"},
		{second, "", "second"},
		{second, "", "second"},
	} {
		h.kill()
		h.configure(step.binary, step.line)
		h.up()
		if got, hello := h.keeperPid(), h.keeperHello(); got != pid || hello.Build != step.build {
			t.Errorf("with %s %s: keeper %d of build %q, want %d of %q", step.binary, step.line, got, hello.Build, pid, step.build)
		}
	}
	if got := strings.Count(h.log(), "keeper upgraded in place"); got != 1 {
		t.Errorf("%d upgrades", got)
	}
	before := len(h.logged(log))
	h.until("the log goes on", func() bool { return len(h.logged(log)) > before+5 })
	if got := h.exec(counter, "echo", "well"); got != "well\n" {
		t.Errorf("exec: %q", got)
	}
	if _, err := h.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: counter, Timeout: 20}); err != nil {
		t.Fatal(err)
	}
	if s := h.ended(counter); s.ExitCode != 7 {
		t.Errorf("%v", s)
	}
	for n, line := range h.logged(log) {
		if line != fmt.Sprint(n) {
			t.Fatalf("line %d of the log is %q", n, line)
		}
	}
}

// configure names another keeper, and adds a line.
func (h *host) configure(binary, line string) {
	h.Helper()
	text, err := os.ReadFile(h.config)
	if err != nil {
		h.Fatal(err)
	}
	var out []string
	for l := range strings.Lines(string(text)) {
		switch {
		case strings.HasPrefix(l, "keeper_upgrade"):
		case strings.HasPrefix(l, "keeper = "):
			out = append(out, fmt.Sprintf("keeper = %q\n%s\n", binary, line))
		default:
			out = append(out, l)
		}
	}
	if err := os.WriteFile(h.config, []byte(strings.Join(out, "")), 0o600); err != nil {
		h.Fatal(err)
	}
}

func (h *host) keeperHello() keeper.Hello {
	client, err := keeper.Adopt(h.Context(), filepath.Join(h.dir, "run", "keeper"))
	if err != nil {
		h.Fatal(err)
	}
	defer client.Close()
	hello, err := client.Hello(h.Context())
	if err != nil {
		h.Fatal(err)
	}
	return hello
}
