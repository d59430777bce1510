// Package zpages tells what runs here: /statusz (KEP-4827) and /flagz (KEP-4828), as text for people, or, for whoever accepts
// application/json or application/yaml with g=config.k8s.io, v=v1beta1 (or v1alpha1) and as=Statusz or as=Flagz, as an object.
//
// The text is upstream's, with its habit of another delimiter each time, so that nobody parses it.
package zpages

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"mime"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const group = "config.k8s.io"

// page is one of the two.
type page struct {
	component, kind string
	// text gives the lines of the page, each a name and its value.
	text func() [][2]string
	// object gives the fields of the object beside its type.
	object func(version string) any
}

// Status tells since when the component runs, and which version it is.
func Status(component, version string, started time.Time, paths []string) http.Handler {
	paths = roots(paths)
	binary := strings.TrimPrefix(version, "v")
	emulated := strings.Join(strings.SplitN(binary, ".", 3)[:min(2, strings.Count(binary, ".")+1)], ".")
	return page{component, "Statusz",
		func() [][2]string {
			up := time.Since(started)
			return [][2]string{{}, {"Started", started.UTC().Format(time.UnixDate)},
				{"Up", fmt.Sprintf("%d hr %02d min %02d sec", int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60)},
				{"Go version", runtime.Version()}, {"Binary version", binary}, {"Emulation version", emulated}, {"Paths", strings.Join(paths, " ")}}
		},
		func(version string) any {
			return statusz{metav1.TypeMeta{Kind: "Statusz", APIVersion: group + "/" + version}, metav1.ObjectMeta{Name: component}, metav1.NewTime(started),
				int64(time.Since(started).Seconds()), runtime.Version(), binary, emulated, paths}
		},
	}
}

// statusz is the object (k8s.io/apiserver/pkg/server/statusz/api).
type statusz struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	StartTime         metav1.Time `json:"startTime"`
	UptimeSeconds     int64       `json:"uptimeSeconds"`
	GoVersion         string      `json:"goVersion"`
	BinaryVersion     string      `json:"binaryVersion"`
	EmulationVersion  string      `json:"emulationVersion,omitempty"`
	Paths             []string    `json:"paths"`
}

// Flags tells with which flags the component was started.
func Flags(component string, flags map[string]string) http.Handler {
	return page{component, "Flagz",
		func() [][2]string {
			var lines [][2]string
			for name, value := range flags {
				lines = append(lines, [2]string{name, value})
			}
			slices.SortFunc(lines, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
			return lines
		},
		func(version string) any {
			return flagz{metav1.TypeMeta{Kind: "Flagz", APIVersion: group + "/" + version}, metav1.ObjectMeta{Name: component}, flags}
		},
	}
}

type flagz struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Flags             map[string]string `json:"flags,omitempty"`
}

// ServeHTTP implements http.Handler.
func (p page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	accept := strings.TrimSpace(r.Header.Get("Accept"))
	if accept == "" {
		p.write(w)
		return
	}
	for option := range strings.SplitSeq(accept, ",") {
		kind, params, err := mime.ParseMediaType(option)
		switch {
		case err != nil:
			continue
		case kind == "text/plain" || kind == "text/*" || kind == "*/*":
			p.write(w)
			return
		case params["g"] != group || params["as"] != p.kind || (params["v"] != "v1beta1" && params["v"] != "v1alpha1"):
			continue
		case kind == "application/json":
			p.encode(w, kind, params["v"], json.Marshal)
			return
		case kind == "application/yaml":
			p.encode(w, kind, params["v"], yaml.Marshal)
			return
		}
	}
	http.Error(w, "only the following media types are accepted: text/plain, application/json, application/yaml", http.StatusNotAcceptable)
}

func (p page) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "\n%s %s\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n",
		p.component, strings.ToLower(p.kind))
	delimiters := []string{":", ": ", "=", " "}
	delimiter := delimiters[rand.IntN(len(delimiters))]
	for _, line := range p.text() {
		if line[0] == "" {
			fmt.Fprintln(w)
			continue
		}
		if p.kind == "Statusz" {
			line[1] = " " + line[1]
		}
		fmt.Fprintf(w, "%s%s%s\n", line[0], delimiter, line[1])
	}
}

func (p page) encode(w http.ResponseWriter, mediaType, version string, marshal func(any) ([]byte, error)) {
	data, err := marshal(p.object(version))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaType)
	_, _ = w.Write(data) // the client is gone if this fails
}

// roots are the first parts of the paths, each once.
func roots(paths []string) []string {
	var out []string
	for _, p := range paths {
		first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
		out = append(out, "/"+first)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
