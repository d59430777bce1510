package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/cmd/skiff-cri/monitor"
)

// differ sets a key to a value that is not its default: the first of some that fits its type.
func differ(t *testing.T, base Config, key string) (Config, bool) {
	t.Helper()
	table, name := "", key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		table, name = "["+key[:i]+"]\n", key[i+1:]
	}
	for _, value := range []string{`"/x"`, `"debug"`, `"127.0.0.1"`, "77", "0.5", "true", "false", `["/x"]`, `["10.1.0.0/16"]`, `["10.1.0.1"]`} {
		now, err := load(write(t, table+name+" = "+value))
		if err != nil {
			continue
		}
		if changed, err := changes(base, now); err == nil && slices.Equal(changed, []string{key}) {
			return now, true
		}
	}
	return base, false
}

// marked are the keys whose comment in default.toml says that they can be reloaded. A comment is for the keys below it
// up to the next comment.
func marked() map[string]bool {
	out := map[string]bool{}
	reload, fresh := false, true
	table := ""
	for line := range strings.Lines(string(defaultConfig)) {
		line = strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "#"):
			if fresh {
				reload, fresh = false, false
			}
			reload = reload || strings.Contains(line, "[reload]")
			continue
		case strings.HasPrefix(line, "["):
			table = strings.Trim(line, "[]") + "."
		case strings.Contains(line, " = "):
			out[table+strings.TrimSpace(line[:strings.Index(line, " = ")])] = reload
		}
		fresh = true
	}
	return out
}

// TestReloadableKeys changes one key after the other: those that default.toml marks are adopted, no others.
func TestReloadableKeys(t *testing.T) {
	base, err := load(write(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	marks := marked()
	if len(marks) < 30 || !marks["log_level"] || marks["root"] {
		t.Fatalf("the comments are not understood: %v", marks)
	}
	for key, reloadable := range marks {
		now, ok := differ(t, base, key)
		if !ok {
			t.Errorf("%s: no value of the test fits it", key)
			continue
		}
		changed, err := changes(base, adopt(base, now))
		if err != nil || (len(changed) > 0) != reloadable {
			t.Errorf("%s: adopted %v, marked %v, %v", key, changed, reloadable, err)
		}
	}
}

func TestHandlersAreReloaded(t *testing.T) {
	old, err := load(write(t, "[runtimes.crun]\npath = \"/usr/bin/crun\""))
	if err != nil {
		t.Fatal(err)
	}
	now, err := load(write(t, "[runtimes.youki]\npath = \"/usr/bin/youki\""))
	if err != nil {
		t.Fatal(err)
	}
	got, err := changes(old, adopt(old, now))
	if err != nil || !slices.Contains(got, "runtimes.crun.path") || !slices.Contains(got, "runtimes.youki.path") {
		t.Errorf("%v, %v", got, err)
	}
}

// TestReload goes through what SIGHUP does, with the log as its witness.
func TestReload(t *testing.T) {
	dir := t.TempDir()
	var text string
	read := func() (Config, error) {
		c, err := load(write(t, fmt.Sprintf("run_dir = %q\n%s", dir, text)))
		if err != nil {
			return c, err
		}
		return c.complete()
	}
	c, err := read()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	level := &slog.LevelVar{}
	o := newOperations(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: level})), level)
	var told Config
	o.services = func(c Config) { told = c }
	defer func() {
		if err := o.close(); err != nil {
			t.Error(err)
		}
	}()
	if err := o.apply(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		text, says string
		check      func() bool
	}{
		{"log_level = \"debug\"\n[images]\npinned = [\"a\"]", `changed="[images.pinned log_level]"`, func() bool {
			return level.Level() == slog.LevelDebug && reflect.DeepEqual(told.Images.Pinned, []string{"a"})
		}},
		{"streams = \"127.0.0.1:1\"", `keys=[streams]`, func() bool { return level.Level() == slog.LevelInfo && told.Streams == "127.0.0.1:0" }},
		{"log_level = \"loud\"", "the old one stays", func() bool { return level.Level() == slog.LevelInfo }},
		{fmt.Sprintf("[monitor]\nmetrics = \"unix://%s/m.sock\"", dir), `changed=[monitor.metrics]`, func() bool { return answersAt(t, dir+"/m.sock") }},
		{"[monitor]\nmetrics = \"unix:///proc/none/m.sock\"", "could not be applied", func() bool { return answersAt(t, dir+"/m.sock") }},
		{"", `changed=[monitor.metrics]`, func() bool { return !answersAt(t, dir+"/m.sock") && o.counted == nil }},
		{"[monitor]\ndebug = \"off\"", `changed=[monitor.debug]`, func() bool {
			_, err := monitor.Calls(t.Context(), filepath.Join(dir, "debug.sock"))
			return err != nil
		}},
		{"[tracing]\nendpoint = \"127.0.0.1:1\"", "changed=", func() bool { return o.traced != nil }},
		{"", "changed=[tracing.endpoint]", func() bool { return o.traced == nil }},
	} {
		log.Reset()
		text = step.text
		c = o.reload(t.Context(), c, read)
		if !strings.Contains(log.String(), step.says) || !step.check() {
			t.Errorf("%s\nwant %q in the log:\n%s", step.text, step.says, log.String())
		}
	}
}

// answersAt says whether metrics are served on the socket.
func answersAt(t *testing.T, socket string) bool {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialUnix(socket)}}
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), "GET", "http://x/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	reply, err := client.Do(request)
	if err != nil {
		return false
	}
	defer reply.Body.Close()
	return reply.StatusCode == http.StatusOK
}

func dialUnix(socket string) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
}
