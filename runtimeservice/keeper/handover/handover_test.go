package handover

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func number(n int) *int { return &n }

func example() State {
	return State{
		Build: "old", Lock: 3, Listener: 4,
		Events: []keeper.Event{{Seq: 7, ID: "a", State: keeper.Running, At: time.Unix(1, 0).UTC()}},
		Containers: []Container{{
			Record: json.RawMessage(`{"version":1}`), Ours: number(5),
			Peers: []Peer{{File: 6, Stream: "stdin", Rest: []byte("typed")}},
			Execs: []Exec{{ID: "e", Pid: 9, Terminal: number(7)}, {ID: "f", Pid: 10, Exit: &keeper.Exit{Code: 3}, Told: true}},
		}},
		Sessions: []Session{{File: 8}, {File: 9, Greeted: true, Pending: &Pending{Method: "events", After: 6}}},
	}
}

func TestWriteAndRead(t *testing.T) {
	want := example()
	f, err := Write(want)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n, err := NumberOf(f)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Read(n)
	if err != nil {
		t.Fatal(err)
	}
	want.Version, want.MinReader = Version, MinReader
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecode(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"of this version":           {`{"version":1,"minReader":1,"lock":3,"listener":4}`, true},
		"of a newer one":            {`{"version":9,"minReader":1,"lock":3,"listener":4,"sails":["main"],"containers":[{"record":{},"anchor":true}]}`, true},
		"not for this reader":       {`{"version":9,"minReader":2,"lock":3,"listener":4}`, false},
		"without a version":         {`{"lock":3,"listener":4}`, false},
		"with a standard stream":    {`{"version":1,"minReader":1,"lock":1,"listener":4}`, false},
		"with a negative file":      {`{"version":1,"minReader":1,"lock":3,"listener":4,"sessions":[{"file":-1}]}`, false},
		"with a file of wrong type": {`{"version":1,"minReader":1,"lock":"3","listener":4}`, false},
		"torn":                      {`{"version":1,"minR`, false},
	} {
		if _, err := Decode([]byte(tc.text)); (err == nil) != tc.ok || err != nil && !errors.Is(err, ErrSuccessor) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAccept(t *testing.T) {
	if err := Accept(Own("x")); err != nil {
		t.Errorf("another build of the same: %v", err)
	}
	if err := Accept(Ability{Major: keeper.VersionMajor, Minor: 99, Version: 99}); err != nil {
		t.Errorf("a newer one: %v", err)
	}
	if err := Accept(Ability{Major: keeper.VersionMajor + 1, Version: 1}); err == nil || !strings.Contains(err.Error(), "stop all containers first") {
		t.Errorf("another protocol: %v", err)
	}
	if err := Accept(Ability{Major: keeper.VersionMajor}); err == nil {
		t.Error("one that reads no state is accepted")
	}
}

// Files survive an execve exactly while they are inherited.
func TestInherit(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	a, _ := NumberOf(r)
	b, _ := NumberOf(w)
	s := State{Lock: a, Listener: b}
	for _, yes := range []bool{true, false} {
		if err := s.Inherit(yes); err != nil {
			t.Fatal(err)
		}
		for _, fd := range []int{a, b} {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
			if err != nil || (flags&unix.FD_CLOEXEC == 0) != yes {
				t.Errorf("flags %#x, %v, want inherited %v", flags, err, yes)
			}
		}
	}
	r.Close()
	if err := s.Inherit(true); err == nil {
		t.Error("a closed file was handed over")
	}
}

// Whatever a keeper finds in a state, it refuses it or gets files that are no standard streams.
func FuzzDecode(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := Decode(text)
		if err != nil {
			if !errors.Is(err, ErrSuccessor) {
				t.Errorf("%v, want ErrSuccessor", err)
			}
			return
		}
		for _, n := range s.numbers() {
			if n < 3 {
				t.Errorf("file %d", n)
			}
		}
	})
}
