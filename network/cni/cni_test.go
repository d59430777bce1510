package cni

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network"
)

// fake is a plugin in memory: it holds who is attached, and refuses what "fail" names.
type fake struct {
	attached map[string]bool
	fail     string
	refuses  string
}

func (f *fake) do(verb string, c Call) error {
	if f.fail == verb {
		return Error(CodeTryAgain, "%s of %s fails", verb, c.ContainerID)
	}
	return nil
}

func (f *fake) Add(_ context.Context, c Call) (*Result, error) {
	if err := f.do("ADD", c); err != nil {
		return nil, err
	}
	f.attached[c.ContainerID] = true
	prev, err := c.PrevResult()
	if prev != nil || err != nil {
		return prev, err
	}
	return &Result{CNIVersion: "1.1.0", Interfaces: []*Interface{{Name: c.IfName, Sandbox: c.NetNS}}}, nil
}

func (f *fake) Del(_ context.Context, c Call) error {
	delete(f.attached, c.ContainerID)
	return f.do("DEL", c)
}

func (f *fake) Check(_ context.Context, c Call) error  { return f.do("CHECK", c) }
func (f *fake) Status(_ context.Context, c Call) error { return f.do("STATUS", c) }

func (f *fake) GC(_ context.Context, c Call) error {
	valid, err := c.Valid()
	for id := range f.attached {
		if !valid[id+"/eth0"] {
			delete(f.attached, id)
		}
	}
	return err
}

func (f *fake) Supports(conf []byte) error {
	if f.refuses != "" && strings.Contains(string(conf), f.refuses) {
		return errors.New("it does not honour " + f.refuses)
	}
	return nil
}

func newDriver(t *testing.T, dir string, plugins map[string]Plugin) *Driver {
	t.Helper()
	d, err := New(Config{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin")}, CacheDir: filepath.Join(dir, "cache"),
		Builtin: plugins, Default: []byte(`{"cniVersion":"1.1.0","name":"default","plugins":[{"type":"one"}]}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestNetworkInForce(t *testing.T) {
	dir := t.TempDir()
	d := newDriver(t, dir, map[string]Plugin{"one": &fake{}})
	file := func(name string) string { return filepath.Join(dir, "net.d", name) }
	for _, step := range []struct {
		name, text string // text "" removes the file
		network    string
		builtin    bool
		err        string
	}{
		{network: "default", builtin: true},
		{name: "20.conflist", text: `{"cniVersion":"1.0.0","name":"twenty","plugins":[{"type":"one"}]}`, network: "twenty"},
		{name: "10.conf", text: `{"cniVersion":"0.4.0","name":"ten","type":"one"}`, network: "ten"},
		{name: "05.txt", text: "not looked at", network: "ten"},
		{name: "10.conf", text: `{"cniVersion":"0.4.0","name":"ten"}`, err: "10.conf: error parsing configuration: missing 'type'"},
		{name: "10.conf", text: `{`, err: "10.conf"},
		{name: "10.conf", network: "twenty"},
		{name: "20.conflist", text: `{"cniVersion":"1.0.0","name":"changed","plugins":[{"type":"one"}]}`, network: "changed"},
		{name: "20.conflist", text: `{"cniVersion":"1.0.0","name":"empty","plugins":[]}`, err: "20.conflist"},
		{name: "20.conflist", network: "default", builtin: true},
	} {
		if step.text != "" {
			write(t, file(step.name), step.text)
		} else if step.name != "" {
			if err := os.Remove(file(step.name)); err != nil {
				t.Fatal(err)
			}
		}
		name, builtin, err := d.Network()
		if step.err != "" {
			if err == nil || !strings.Contains(err.Error(), step.err) {
				t.Errorf("%+v: %v", step, err)
			}
			continue
		}
		if err != nil || name != step.network || builtin != step.builtin {
			t.Errorf("%+v: %s, %v, %v", step, name, builtin, err)
		}
	}
}

func TestAttachments(t *testing.T) {
	dir := t.TempDir()
	one, two := &fake{attached: map[string]bool{}}, &fake{attached: map[string]bool{}}
	plugins := map[string]Plugin{"one": one, "two": two}
	d := newDriver(t, dir, plugins)
	ctx := t.Context()
	add := func(id string) error {
		_, err := d.Add(ctx, Attachment{ContainerID: id, NetNS: "/ns/" + id, IfName: "eth0"})
		return err
	}
	if err := add("a"); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "net.d", "x.conflist"), `{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"one"},{"type":"two"}]}`)
	two.fail = "ADD"
	if err := add("b"); err == nil || len(one.attached) != 1 {
		t.Errorf("a failing second plugin: %v, the first holds %v", err, one.attached)
	}
	two.fail = ""
	for _, id := range []string{"b", "c"} {
		if err := add(id); err != nil {
			t.Fatal(err)
		}
	}

	d = newDriver(t, dir, plugins) // the next process
	if err := os.Remove(filepath.Join(dir, "net.d", "x.conflist")); err != nil {
		t.Fatal(err)
	}
	if err := d.Del(ctx, Attachment{ContainerID: "b", IfName: "eth0"}); err != nil || two.attached["b"] || one.attached["b"] {
		t.Errorf("not detached as it was attached: %v, %v, %v", err, one.attached, two.attached)
	}
	one.attached["nobody's"] = true
	if err := d.GC(ctx, map[string]bool{"a": true}, "eth0"); err != nil {
		t.Fatal(err)
	}
	if len(one.attached) != 1 || !one.attached["a"] || len(two.attached) != 0 {
		t.Errorf("after GC: %v, %v", one.attached, two.attached)
	}
	for range 2 {
		if err := d.Del(ctx, Attachment{ContainerID: "a", IfName: "eth0"}); err != nil || one.attached["a"] {
			t.Errorf("detach: %v, %v", err, one.attached)
		}
	}
}

func TestStatus(t *testing.T) {
	dir := t.TempDir()
	one := &fake{attached: map[string]bool{}, refuses: `"hot"`}
	d := newDriver(t, dir, map[string]Plugin{"one": one})
	if err := d.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	one.fail = "STATUS"
	if err := d.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "STATUS") {
		t.Errorf("failing: %v", err)
	}
	one.fail = ""
	write(t, filepath.Join(dir, "net.d", "x.conflist"), `{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"one","hot":1}]}`)
	if err := d.Status(t.Context()); err == nil || !strings.Contains(err.Error(), `does not honour "hot"`) {
		t.Errorf("a key that is not honoured: %v", err)
	}
	write(t, filepath.Join(dir, "net.d", "x.conflist"), `{"cniVersion":"1.1.0","name":"x","plugins":[{"type":"missing"}]}`)
	if err := d.Status(t.Context()); err == nil || !strings.Contains(err.Error(), `"missing" is not built in`) {
		t.Errorf("a missing executable: %v", err)
	}
}

func TestRunShapesTheResult(t *testing.T) {
	for version, want := range map[string]string{"0.4.0": `"cniVersion":"0.4.0"`, "1.0.0": `"cniVersion":"1.0.0"`, "1.1.0": `"cniVersion":"1.1.0"`} {
		conf, _ := json.Marshal(map[string]string{"cniVersion": version, "name": "n", "type": "one"})
		out, err := Run(t.Context(), &fake{attached: map[string]bool{}}, Call{Command: "ADD", IfName: "eth0", Conf: conf})
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %s, %v", version, out, err)
		}
	}
	if _, err := Run(t.Context(), &fake{}, Call{Command: "EAT"}); err == nil {
		t.Error("an unknown command succeeded")
	}
}

func TestCodes(t *testing.T) {
	for _, tc := range []struct {
		in   error
		code string
	}{
		{network.ErrNotReady, "50"},
		{network.ErrExhausted, "11"},
		{Error(CodeInvalidConfig, "x"), "7"},
	} {
		data, err := json.Marshal(coded(tc.in))
		if err != nil || !strings.Contains(string(data), `"code":`+tc.code) {
			t.Errorf("%v: %s, %v", tc.in, data, err)
		}
	}
	if err := errors.New("x"); coded(err) != err || coded(nil) != nil {
		t.Error("other errors are changed")
	}
}

func TestUnknownKey(t *testing.T) {
	for object, want := range map[string]string{
		`{"name":"a","type":"b","cni.dev/x":1,"mine":2}`: "",
		`{"mine":1,"other":2}`:                           "other",
		`[]`:                                             "",
		``:                                               "",
	} {
		if got := UnknownKey([]byte(object), "mine"); got != want {
			t.Errorf("%s: %q, want %q", object, got, want)
		}
	}
}
