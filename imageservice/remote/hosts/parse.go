package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// file is a hosts.toml (docs/hosts.md of containerd).
type file struct {
	Server string `toml:"server"`
	fields
	Hosts map[string]fields `toml:"host"`
}

type fields struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // path, or list of paths
	Client       any            `toml:"client"` // path, or list of paths or of pairs of paths
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"` // string, or list of strings
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// table is one host as parsed; paths are as written.
type table struct {
	Host
}

type parsed struct {
	hosts   []table // in the order of the file
	server  table   // Host.Host is empty when the file does not name one
	unknown []string
}

// host returns the host with paths made absolute.
func (t table) host(dir string) Host {
	h := t.Host
	absolute := func(p string) string {
		if p == "" || filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	h.TLS.CA, h.TLS.Client = slices.Clone(h.TLS.CA), slices.Clone(h.TLS.Client)
	for i, ca := range h.TLS.CA {
		h.TLS.CA[i] = absolute(ca)
	}
	for i, pair := range h.TLS.Client {
		h.TLS.Client[i] = [2]string{absolute(pair[0]), absolute(pair[1])}
	}
	return h
}

// parse reads a hosts.toml. Errors name line and key.
func parse(text []byte) (parsed, error) {
	var out parsed
	var f file
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(&f)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) {
		for _, e := range strict.Errors {
			row, _ := e.Position()
			out.unknown = append(out.unknown, fmt.Sprintf("line %d: unknown key %q", row, strings.Join(e.Key(), ".")))
		}
		err = nil
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		row, column := wrong.Position()
		return out, fmt.Errorf("line %d, column %d: %w", row, column, err)
	} else if err != nil {
		return out, err
	}
	where := positions(text)
	if out.server, err = f.table(f.Server, where, nil); err != nil {
		return out, err
	}
	for _, name := range f.order(where) {
		t, err := f.Hosts[name].table(name, where, []string{"host", name})
		if err != nil {
			return out, err
		}
		out.hosts = append(out.hosts, t)
	}
	return out, nil
}

// order is the order of the hosts in the file.
func (f file) order(where places) []string {
	names := make([]string, 0, len(f.Hosts))
	for name := range f.Hosts {
		names = append(names, name)
	}
	sort.Slice(names, func(i, j int) bool {
		a, b := where.line("host", names[i]), where.line("host", names[j])
		return a < b || a == b && names[i] < names[j]
	})
	return names
}

// table reads the fields of one host. prefix is the key of its table.
func (f fields) table(server string, where places, prefix []string) (table, error) {
	h := Host{Capabilities: every(), Line: where.line(prefix...)}
	if len(prefix) == 0 {
		h.Line = where.line("server")
	}
	wrong := func(key string, err error) (table, error) {
		line := where.line(append(slices.Clone(prefix), key)...)
		if key == "host" {
			line = h.Line
		}
		return table{}, fmt.Errorf("line %d: %s: %w", line, key, err)
	}
	if server != "" || len(prefix) > 0 {
		key := "server"
		if len(prefix) > 0 {
			key = "host"
		}
		if err := h.address(server, f.OverridePath); err != nil {
			return wrong(key, err)
		}
	}
	if err := h.permissions(f.Capabilities); err != nil {
		return wrong("capabilities", err)
	}
	var err error
	if h.TLS.CA, err = paths(f.CA); err != nil {
		return wrong("ca", err)
	}
	if h.TLS.Client, err = pairs(f.Client); err != nil {
		return wrong("client", err)
	}
	if h.Header, err = header(f.Header); err != nil {
		return wrong("header", err)
	}
	if f.DialTimeout != "" {
		if h.DialTimeout, err = time.ParseDuration(f.DialTimeout); err == nil && h.DialTimeout <= 0 {
			err = fmt.Errorf("%q is not a positive duration", f.DialTimeout)
		}
		if err != nil {
			return wrong("dial_timeout", err)
		}
	}
	h.TLS.SkipVerify = f.SkipVerify != nil && *f.SkipVerify
	h.TLS.explicit = f.SkipVerify != nil || h.TLS.CA != nil || h.TLS.Client != nil
	// With something to say about TLS, TLS is what is meant; plain HTTP only where the host does not speak it.
	if h.Scheme == "http" && h.TLS.explicit && !strings.HasSuffix(h.Host, ":80") {
		h.Scheme, h.PlainFallback = "https", true
	}
	return table{Host: h}, nil
}

func (h *Host) address(server string, override bool) error {
	if !strings.HasPrefix(server, "http://") && !strings.HasPrefix(server, "https://") {
		server = "https://" + server
	}
	u, err := url.Parse(server)
	if err != nil || u.Host == "" {
		return fmt.Errorf("%q is not a server, write it as https://host:port", server)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("%q may have scheme, host, port and path only; credentials belong into docker's config.json", u.Redacted())
	}
	h.Scheme, h.Host = u.Scheme, u.Host
	if h.Host == "docker.io" || h.Host == "index.docker.io" {
		h.Host = "registry-1.docker.io" // where Docker Hub's API is
	}
	switch p := path.Clean("/" + u.Path); {
	case override && p == "/":
		h.Path = ""
	case override || p == "/v2" || strings.HasSuffix(p, "/v2"):
		h.Path = p
	default:
		h.Path = path.Join(p, "v2")
	}
	return nil
}

func (h *Host) permissions(capabilities []string) error {
	if len(capabilities) == 0 {
		return nil
	}
	h.Capabilities = nil
	for _, c := range capabilities {
		c = strings.ToLower(c)
		if !slices.Contains(every(), c) {
			return fmt.Errorf("%q is none of %s", c, strings.Join(every(), ", "))
		}
		h.Capabilities = append(h.Capabilities, c)
	}
	return nil
}

func paths(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		return texts(v)
	}
	return nil, errors.New("must be a path or a list of paths")
}

func texts(list []any) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return nil, fmt.Errorf("%v is not a string", v)
		}
		out = append(out, s)
	}
	return out, nil
}

func pairs(v any) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		one, err := paths(v)
		if err != nil {
			return nil, errors.New("must be a path, or a list of paths or of pairs of paths")
		}
		for _, p := range one {
			return [][2]string{{p, ""}}, nil
		}
		return nil, nil
	}
	var out [][2]string
	for _, v := range list {
		switch v := v.(type) {
		case string:
			out = append(out, [2]string{v, ""})
		case []any:
			pair, err := texts(v)
			if err != nil {
				return nil, err
			}
			if len(pair) != 2 {
				return nil, fmt.Errorf("%v is not a pair of certificate and key", v)
			}
			out = append(out, [2]string(pair))
		default:
			return nil, fmt.Errorf("%v is neither a path nor a pair of paths", v)
		}
	}
	return out, nil
}

func header(table map[string]any) (http.Header, error) {
	var out http.Header
	for key, v := range table {
		values, err := paths(v)
		if err != nil {
			return nil, fmt.Errorf("%q must be a string or a list of strings", key)
		}
		if out == nil {
			out = http.Header{}
		}
		for _, value := range values {
			out.Add(key, value)
		}
	}
	return out, nil
}

// places maps keys, joined by NUL, to their lines.
type places map[string]int

func (p places) line(key ...string) int {
	for ; len(key) > 0; key = key[:len(key)-1] {
		if n, ok := p[strings.Join(key, "\x00")]; ok {
			return n
		}
	}
	return 0
}

// positions finds the lines of tables and keys. The text is known to be sound.
func positions(text []byte) places {
	out := places{}
	var p unstable.Parser
	p.Reset(text)
	var in []string
	for p.NextExpression() {
		e := p.Expression()
		var key []string
		line := 0
		for it := e.Key(); it.Next(); {
			if line == 0 {
				line = p.Shape(it.Node().Raw).Start.Line
			}
			key = append(key, string(it.Node().Data))
		}
		if e.Kind == unstable.KeyValue {
			key = slices.Concat(in, key)
		} else {
			in = key
		}
		for i := range key {
			name := strings.Join(key[:i+1], "\x00")
			if _, ok := out[name]; !ok {
				out[name] = line
			}
		}
	}
	return out
}
