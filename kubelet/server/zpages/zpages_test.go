package zpages

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"
)

func ask(h http.Handler, accept string) (int, string, string) {
	w := httptest.NewRecorder()
	r := httptest.NewRequest(http.MethodGet, "/statusz", nil)
	r.Header.Set("Accept", accept)
	h.ServeHTTP(w, r)
	return w.Code, w.Header().Get("Content-Type"), w.Body.String()
}

func TestStatus(t *testing.T) {
	h := Status("kubelet", "v1.37.2", time.Now().Add(-3723*time.Second), []string{"/metrics/cadvisor", "/metrics", "/configz"})
	code, kind, body := ask(h, "")
	want := regexp.MustCompile(`^\nkubelet statusz\nWarning: [^\n]+ only\.\n\nStarted[:= ]+[^\n]+UTC 20\d\d\nUp[:= ]+1 hr 02 min 03 sec\nGo version[:= ]+go[^\n]+\nBinary version[:= ]+1\.37\.2\nEmulation version[:= ]+1\.37\nPaths[:= ]+/configz /metrics\n$`)
	if code != 200 || kind != "text/plain; charset=utf-8" || !want.MatchString(body) {
		t.Errorf("%d %s %q", code, kind, body)
	}
	for accept, want := range map[string]string{
		"application/json;v=v1beta1;g=config.k8s.io;as=Statusz":                      `"kind":"Statusz","apiVersion":"config.k8s.io/v1beta1","metadata":{"name":"kubelet"`,
		"application/yaml;v=v1alpha1;g=config.k8s.io;as=Statusz":                     "apiVersion: config.k8s.io/v1alpha1\n",
		"application/vnd.kubernetes.protobuf, application/json;as=Flagz, text/plain": "kubelet statusz",
		"*/*": "kubelet statusz",
	} {
		if code, _, body := ask(h, accept); code != 200 || !strings.Contains(body, want) {
			t.Errorf("%s: %d %q, want %q", accept, code, body, want)
		}
	}
	if code, _, _ := ask(h, "application/json"); code != 406 {
		t.Errorf("JSON of no kind: %d", code)
	}
}

func TestFlags(t *testing.T) {
	h := Flags("kubelet", map[string]string{"b": "2", "a": "1"})
	if _, _, body := ask(h, ""); !regexp.MustCompile(`only\.\na[:= ]+1\nb[:= ]+2\n$`).MatchString(body) {
		t.Errorf("%q", body)
	}
	if _, kind, body := ask(h, "application/json;v=v1beta1;g=config.k8s.io;as=Flagz"); kind != "application/json" || !strings.Contains(body, `"flags":{"a":"1","b":"2"}`) {
		t.Errorf("%s %q", kind, body)
	}
}
