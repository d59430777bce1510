package preflight

import (
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/cmd/skiff/config"
)

func TestBusyPortNamesPortKeyAndProcess(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := config.Default()
	c.Ports.API = l.Addr().(*net.TCPAddr).Port
	problem, remedy := ports(c)
	for _, want := range []string{strconv.Itoa(c.Ports.API), "ports.api", "pid " + strconv.Itoa(os.Getpid())} {
		if !strings.Contains(problem, want) {
			t.Errorf("%q does not say %q", problem, want)
		}
	}
	if remedy == "" {
		t.Error("no remedy")
	}
}

func TestErrorSkipsWarnings(t *testing.T) {
	if err := Error([]Finding{{Check: "a"}, {Check: "b", Problem: "x", Warning: true}}); err != nil {
		t.Fatal(err)
	}
	err := Error([]Finding{{Check: "c", Problem: "is broken", Remedy: "mend it"}})
	if err == nil || !strings.Contains(err.Error(), "c: is broken") || !strings.Contains(err.Error(), "mend it") {
		t.Fatal(err)
	}
}

func TestDiskWalksUpToWhatExists(t *testing.T) {
	c := config.Default()
	c.Dirs.State = t.TempDir() + "/not/there/yet"
	if problem, _ := disk(c); problem != "" {
		t.Fatal(problem)
	}
}
