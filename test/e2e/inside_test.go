//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"

	"github.com/skiff-node/skiff/test/harness"
)

// insideRole is set in the environment of a process that is part of a host: this program, started again inside it.
const insideRole = "SKIFF_E2E_INSIDE"

// roles are what such a process can be. It reads lines, and answers each with one JSON value.
var roles = map[string]func(in io.Reader, out io.Writer) error{"csi": runDriver, "device plugin": runPlugin, "dra": runGadgets}

func TestMain(m *testing.M) {
	role := os.Getenv(insideRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := roles[role](os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// inside starts a process in the host and returns how to tell it something and read the answer, and how to end it before
// the test ends.
func inside[A any](t *testing.T, h *harness.Host, role string) (tell func(line string) A, stop func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := h.Command(context.Background(), self)
	cmd.Env = append(cmd.Env, insideRole+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		in.Close() // upon which it ends
		if err := cmd.Wait(); err != nil {
			t.Errorf("the process %s: %v", role, err)
		}
	})
	t.Cleanup(stop)
	answers := json.NewDecoder(out)
	return func(line string) A {
		t.Helper()
		if _, err := fmt.Fprintln(in, line); err != nil {
			t.Fatal(err)
		}
		var a A
		if err := answers.Decode(&a); err != nil {
			t.Fatal(err)
		}
		return a
	}, stop
}
