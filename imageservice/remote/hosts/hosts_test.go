package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// tree writes files below a new directory; the content of "x/" is a directory.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, body := range files {
		path := filepath.Join(root, name)
		dir := filepath.Dir(path)
		if strings.HasSuffix(name, "/") {
			dir = path
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if dir == path {
			continue
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// summary says what is asked, in order: the registry itself with a star, plain fallback with ~, no verification with !.
func summary(r Registry) string {
	var all []string
	for _, h := range r.Hosts {
		s := h.URL()
		if h.Own {
			s += "*"
		}
		if h.PlainFallback {
			s += "~"
		}
		if h.TLS.SkipVerify {
			s += "!"
		}
		if len(h.Capabilities) != 4 {
			s += "[" + strings.Join(h.Capabilities, " ") + "]"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

func TestFind(t *testing.T) {
	for name, tc := range map[string]struct {
		files    map[string]string
		registry string
		want     string
	}{
		"nothing":                 {nil, "r.test", "https://r.test/v2*"},
		"hub":                     {nil, "docker.io", "https://registry-1.docker.io/v2*"},
		"loopback":                {nil, "127.0.0.1:5000", "https://127.0.0.1:5000/v2*~!"},
		"loopback, IPv6":          {nil, "[::1]:5000", "https://[::1]:5000/v2*~!"},
		"loopback, port 80":       {nil, "localhost:80", "http://localhost:80/v2*"},
		"loopback without a port": {nil, "localhost", "https://localhost/v2*!"},
		"mirrors before server": {map[string]string{"r.test/hosts.toml": `
server = "https://upstream.test"
[host."https://b.test"]
capabilities = ["pull", "Resolve"]
[host."https://b.test".header]
x = "y"
[host."http://a.test:5000/base"]
`}, "r.test", "https://b.test/v2[pull resolve] http://a.test:5000/base/v2 https://upstream.test/v2*"},
		"mirrors before the registry": {map[string]string{"r.test/hosts.toml": "[host.\"https://m.test\"]\n"}, "r.test", "https://m.test/v2 https://r.test/v2*"},
		"only the mirror":             {map[string]string{"_default/hosts.toml": "server = \"https://m.test\"\n"}, "r.test", "https://m.test/v2"},
		"the registry as a host":      {map[string]string{"r.test/hosts.toml": "server = \"https://m.test\"\n[host.\"https://r.test\"]\n"}, "r.test", "https://r.test/v2* https://m.test/v2*"},
		"server without scheme":       {map[string]string{"r.test/hosts.toml": "server = \"up.test:5\"\n"}, "r.test", "https://up.test:5/v2*"},
		"server is docker.io":         {map[string]string{"docker.io/hosts.toml": "server = \"https://docker.io\"\n"}, "docker.io", "https://registry-1.docker.io/v2*"},
		"paths": {map[string]string{"r.test/hosts.toml": `
server = "https://up.test/v2/"
[host."https://a.test/x/v2/y"]
override_path = true
[host."https://b.test"]
override_path = true
[host."https://c.test/x"]
`}, "r.test", "https://a.test/x/v2/y https://b.test https://c.test/x/v2 https://up.test/v2*"},
		"http with TLS":         {map[string]string{"r.test/hosts.toml": "server = \"http://up.test:5\"\nskip_verify = true\n"}, "r.test", "https://up.test:5/v2*~!"},
		"http, port 80":         {map[string]string{"r.test/hosts.toml": "server = \"http://up.test:80\"\nskip_verify = true\n"}, "r.test", "http://up.test:80/v2*!"},
		"own directory first":   {map[string]string{"r.test/": "", "_default/hosts.toml": "server = \"https://m.test\"\n"}, "r.test", "https://r.test/v2*"},
		"port in the directory": {map[string]string{"r.test_5000_/hosts.toml": "server = \"https://one.test\"\n", "r.test:5000/hosts.toml": "server = \"https://two.test\"\n"}, "r.test:5000", "https://one.test/v2*"},
		"port with a colon":     {map[string]string{"r.test:5000/hosts.toml": "server = \"https://two.test\"\n"}, "r.test:5000", "https://two.test/v2*"},
		"loopback verifies":     {map[string]string{"127.0.0.1:5000/hosts.toml": "skip_verify = false\n"}, "127.0.0.1:5000", "https://127.0.0.1:5000/v2*~"},
		"empty file":            {map[string]string{"r.test/hosts.toml": ""}, "r.test", "https://r.test/v2*"},
		"inline tables":         {map[string]string{"r.test/hosts.toml": "host = {\"https://b.test\" = {}, \"https://a.test\" = {skip_verify = true}}\n"}, "r.test", "https://a.test/v2! https://b.test/v2 https://r.test/v2*"},
		"escape":                {map[string]string{"r.test/": ""}, "..", "https://../v2*"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Find([]string{filepath.Join(t.TempDir(), "absent"), tree(t, tc.files)}, tc.registry)
			if err != nil || summary(got) != tc.want {
				t.Errorf("got %s, %v\nwant %s", summary(got), err, tc.want)
			}
		})
	}
}

func TestFindDetails(t *testing.T) {
	root := tree(t, map[string]string{"r.test/hosts.toml": `# a comment
server = "https://up.test"
ca = "up.crt"

[host."https://m.test"]
  ca = ["/abs.crt", "rel.crt"]
  client = [["c.cert", "c.key"], "both.pem"]
  dial_timeout = "3s"
  color = "blue"
  [host."https://m.test".header]
    x-key = ["1", "2"]
`})
	r, err := Find([]string{root}, "r.test")
	if err != nil || len(r.Hosts) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	dir := filepath.Join(root, "r.test")
	m, up := r.Hosts[0], r.Hosts[1]
	if !slices.Equal(m.TLS.CA, []string{"/abs.crt", dir + "/rel.crt"}) || !slices.Equal(up.TLS.CA, []string{dir + "/up.crt"}) {
		t.Errorf("ca: %v, %v", m.TLS.CA, up.TLS.CA)
	}
	if want := [][2]string{{dir + "/c.cert", dir + "/c.key"}, {dir + "/both.pem", ""}}; !slices.Equal(m.TLS.Client, want) {
		t.Errorf("client: %v", m.TLS.Client)
	}
	if m.DialTimeout != 3*time.Second || !slices.Equal(m.Header["X-Key"], []string{"1", "2"}) {
		t.Errorf("got %+v", m)
	}
	if m.Line != 5 || up.Line != 2 || r.File != dir+"/hosts.toml" {
		t.Errorf("lines %d, %d of %s", m.Line, up.Line, r.File)
	}
	if want := []string{dir + `/hosts.toml: line 9: unknown key "host.https://m.test.color"`}; !slices.Equal(r.Warnings, want) {
		t.Errorf("warnings %q", r.Warnings)
	}
}

func TestDockerCertificates(t *testing.T) {
	root := tree(t, map[string]string{"r.test/ca.crt": "", "r.test/a.cert": "", "r.test/a.key": "", "r.test/b.cert": "", "r.test/readme": ""})
	r, err := Find([]string{root}, "r.test")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "r.test")
	got := fmt.Sprint(r.Hosts[0].TLS.CA, r.Hosts[0].TLS.Client)
	if want := fmt.Sprint([]string{dir + "/ca.crt"}, [][2]string{{dir + "/a.cert", dir + "/a.key"}, {dir + "/b.cert", ""}}); got != want || r.File != "" {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestBrokenFiles(t *testing.T) {
	for text, want := range map[string]string{
		"server = \n":                              "line 1",
		"\nserver = \"http://\"\n":                 "line 2: server: \"http://\" is not a server",
		"server = \"https://u:p@h\"\n":             "line 1: server",
		"\n\ncapabilities = [\"dance\"]\n":         "line 3: capabilities: \"dance\" is none of",
		"capabilities = \"pull\"\n":                "line 1",
		"[host.\"b\"]\n\ndial_timeout = \"soon\"":  "line 3: dial_timeout",
		"dial_timeout = \"-1s\"\n":                 "line 1: dial_timeout",
		"ca = 7\n":                                 "line 1: ca: must be a path",
		"client = [[\"a\"]]\n":                     "line 1: client: [a] is not a pair",
		"[host.\"b\"]\n[host.\"b\".header]\nx=1\n": "line 2: header: \"x\" must be",
		"[host.\"https://\"]\n":                    "line 1: host: ",
		"\n[host.\"\"]\n":                          "line 2: host: ",
	} {
		root := tree(t, map[string]string{"r.test/hosts.toml": text})
		_, err := Find([]string{root}, "r.test")
		if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), filepath.Join(root, "r.test/hosts.toml")) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("server = \"https://a\"\n[host.\"b\"]\nca = \"c\"\n[host.\"b\".header]\nx = [\"y\"]\n"))
	f.Add([]byte("host = {\"a\" = {client = [[\"c\", \"k\"], \"p\"]}}\ndial_timeout = \"1s\"\n"))
	f.Add([]byte("[[host]]\n[host.a.b.c]\n'' = 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parse(text)
		if err != nil {
			return
		}
		for _, h := range p.hosts {
			got := h.host("/dir")
			if got.Host == "" || got.Scheme != "http" && got.Scheme != "https" {
				t.Errorf("a host without address: %+v", got)
			}
			for _, ca := range got.TLS.CA {
				if ca != "" && !filepath.IsAbs(ca) {
					t.Errorf("relative CA %q", ca)
				}
			}
		}
	})
}
