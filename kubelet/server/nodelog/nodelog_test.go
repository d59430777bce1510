package nodelog

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// journal is a reader that knows the unit foo.service, and shows what it is asked for.
const journal = `#!/bin/sh
if [ "$1" = --field ]; then echo foo.service; else echo "journal: $*"; fi
`

func TestNodeLog(t *testing.T) {
	dir := t.TempDir()
	for path, text := range map[string]string{"syslog": "sys\n", "bar.log": "bar\n", "baz/baz.log": "baz\n", "journalctl": journal} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, path), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "out.log")); err != nil {
		t.Fatal(err)
	}
	ask := func(h http.Handler, path string, q url.Values) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/logs/"+path+"?"+q.Encode(), nil))
		return w.Code, w.Body.String()
	}
	h := Handler(Config{Dir: dir, Query: true, Journal: filepath.Join(dir, "journalctl")})
	none := Handler(Config{Dir: dir, Query: true, Journal: filepath.Join(dir, "no journal")})
	for name, tc := range map[string]struct {
		h     http.Handler
		path  string
		query string
		code  int
		body  string
	}{
		"list":                    {h, "", "", 200, `<a href="syslog">syslog</a>`},
		"file":                    {h, "syslog", "", 200, "sys\n"},
		"file by query":           {h, "", "query=/syslog", 200, "sys\n"},
		"file below":              {h, "", "query=/baz/baz.log", 200, "baz\n"},
		"unit":                    {h, "", "query=foo", 200, "journal: --utc --no-pager --output=short-precise --unit=foo\n"},
		"unit with options":       {h, "", "query=foo&sinceTime=2026-01-02T03:04:05Z&untilTime=2026-02-02T03:04:05Z&tailLines=7&pattern=a.c&boot=-1", 200, "journal: --utc --no-pager --output=short-precise --since=2026-1-2 03:4:5 --until=2026-2-2 03:4:5 --pager-end --lines=7 --unit=foo --grep=a.c --boot -1\n"},
		"unit and file":           {h, "", "query=foo&query=bar", 200, "--unit=foo\nbar\n"},
		"service of a file":       {h, "", "query=bar", 200, "bar\n"},
		"service of a directory":  {h, "", "query=baz", 200, "baz\n"},
		"service without journal": {none, "", "query=syslog", 200, "sys\n"},
		"unknown service":         {h, "", "query=nosuch", 200, "\nlog not found for nosuch\n"},
		"options for a file":      {h, "", "query=bar&tailLines=1", 200, "\noptions present and query resolved to log files for [bar]\ntry without specifying options\n"},
		"link out of it":          {h, "", "query=/out.log", 406, "path escapes from parent"},
		"link out by service":     {h, "", "query=out", 200, "error getting log for out"},
		"path out of it":          {h, "", "query=/../../etc/hostname", 406, "path escapes from parent"},
		"path and query":          {h, "syslog", "query=foo", 406, "path not allowed in query mode"},
		"empty query":             {h, "", "query=", 400, `query: Invalid value: [""]: may not be empty`},
		"options alone":           {h, "", "tailLines=1", 406, "query: Required value: cannot be empty with options"},
		"file with options":       {h, "", "query=/syslog&tailLines=1", 406, "cannot specify file with options"},
		"two files":               {h, "", "query=/syslog&query=/bar.log", 406, "cannot specify more than one file"},
		"file and service":        {h, "", "query=/syslog&query=foo", 406, "cannot specify a file and service"},
		"five services":           {h, "", "query=a&query=b&query=c&query=d&query=e", 406, "must have at most 4 items"},
		"unsafe name":             {h, "", "query=foo;ls", 406, "input contains unsupported characters"},
		"bad time":                {h, "", "query=foo&sinceTime=x", 400, `sinceTime: Invalid value: "x": invalid time format`},
		"times the wrong way":     {h, "", "query=foo&sinceTime=2027-01-01T00:00:00Z&untilTime=2026-01-01T00:00:00Z", 406, "must be after `sinceTime`"},
		"boot to come":            {h, "", "query=foo&boot=1", 406, "must be less than 1"},
		"too many lines":          {h, "", "query=foo&tailLines=100001", 406, "must be between 0 and 100000, inclusive"},
		"no number":               {h, "", "query=foo&tailLines=x", 400, "tailLines: Invalid value"},
		"bad pattern":             {h, "", "query=foo&pattern=[", 406, "missing closing ]"},
		"queries turned off":      {Handler(Config{Dir: dir}), "", "query=foo", 200, `<a href="syslog">syslog</a>`},
	} {
		v, err := url.ParseQuery(strings.ReplaceAll(tc.query, ";", "%3B"))
		if err != nil {
			t.Fatal(err)
		}
		if code, body := ask(tc.h, tc.path, v); code != tc.code || !strings.Contains(body, tc.body) {
			t.Errorf("%s: %s", name, fmt.Sprintf("%d %q, want %d %q", code, body, tc.code, tc.body))
		}
	}
}

// TestLinks: what a request can see by links and by paths. A query never leaves the directory; a plain path is cleaned, and follows links,
// also absolute ones.
func TestLinks(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "log")
	for path, text := range map[string]string{"log/pods/p/0.log": "of the pod", "log/containers/empty": "", "secret": "of the node"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(base, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(base, path), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"containers/p.log": filepath.Join(dir, "pods/p/0.log"), "near.log": "pods/p/0.log", "out.log": filepath.Join(base, "secret"),
		"up.log": "../secret", "away": base} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	h := Handler(Config{Dir: dir, Query: true, Journal: filepath.Join(dir, "no journal")})
	for _, tc := range []struct {
		plain, query string
		code         int
		body         string
	}{
		{plain: "/logs/containers/p.log", code: 200, body: "of the pod"}, // as a runtime links its logs
		{plain: "/logs/near.log", code: 200, body: "of the pod"},
		{plain: "/logs/out.log", code: 200, body: "of the node"}, // as upstream
		{plain: "/logs/../secret", code: 404},
		{plain: "/logs/..%2fsecret", code: 404},
		{plain: "/logs/%2e%2e/%2e%2e/secret", code: 404},
		{plain: "/logs/pods/../../secret", code: 404},
		{query: "/near.log", code: 200, body: "of the pod"},
		{query: "/containers/p.log", code: 406, body: "path escapes from parent"}, // upstream as well: the link is absolute
		{query: "/out.log", code: 406, body: "path escapes from parent"},
		{query: "/up.log", code: 406, body: "path escapes from parent"},
		{query: "/away/secret", code: 406, body: "path escapes from parent"},
		{query: "/pods/../../secret", code: 406, body: "path escapes from parent"},
		{query: "up", code: 200, body: "error getting log for up"}, // the service
		{query: "out", code: 200, body: "error getting log for out"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/logs/", nil)
		r.URL.RawQuery = url.Values{"query": {tc.query}}.Encode()
		if tc.plain != "" {
			r = httptest.NewRequest(http.MethodGet, tc.plain, nil)
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		body := w.Body.String()
		if w.Code != tc.code || !strings.Contains(body, tc.body) || (tc.body != "of the node" && strings.Contains(body, "of the node")) {
			t.Errorf("%s%s: %d %q, want %d %q", tc.plain, tc.query, w.Code, body, tc.code, tc.body)
		}
	}
}
