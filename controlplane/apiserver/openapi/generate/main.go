// Command generate writes the OpenAPI documents that the API server embeds, from the documents that upstream publishes
// with its sources: those of the group versions served here, compressed, as JSON and as protobuf. Run it by go generate.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"

	"github.com/skiff-node/skiff/controlplane/apiserver/openapi/catalog"
)

func main() {
	log.SetFlags(0)
	out := flag.String("out", "data", "directory to write to")
	flag.Parse()
	if err := run(*out); err != nil {
		log.Fatal(err)
	}
}

func run(out string) error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return fmt.Errorf("find the sources of k8s.io/kubernetes: %w", err)
	}
	specs := filepath.Join(strings.TrimSpace(string(dir)), "api", "openapi-spec")
	if err := os.RemoveAll(out); err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for _, path := range catalog.Paths() {
		doc, err := os.ReadFile(filepath.Join(specs, "v3", catalog.FileName(path)+"_openapi.json"))
		if err != nil {
			return fmt.Errorf("document of %s: %w", path, err)
		}
		if err := write(filepath.Join(out, catalog.FileName(path)), doc, handler3.ToV3ProtoBinary); err != nil {
			return fmt.Errorf("document of %s: %w", path, err)
		}
	}
	doc, err := os.ReadFile(filepath.Join(specs, "swagger.json"))
	if err != nil {
		return err
	}
	if doc, err = prune(doc); err != nil {
		return err
	}
	return write(filepath.Join(out, catalog.SwaggerFile), doc, handler.ToProtoBinary)
}

// write compacts a document and writes it in both encodings.
func write(name string, doc []byte, proto func([]byte) ([]byte, error)) error {
	var b bytes.Buffer
	if err := json.Compact(&b, doc); err != nil {
		return err
	}
	p, err := proto(b.Bytes())
	if err != nil {
		return err
	}
	if err := compress(name+catalog.JSON, b.Bytes()); err != nil {
		return err
	}
	return compress(name+catalog.Proto, p)
}

func compress(name string, data []byte) error {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(name, b.Bytes(), 0o644)
}

// prune keeps of the one document of OpenAPI v2 the paths that are served and the definitions these reach.
func prune(doc []byte) ([]byte, error) {
	var all map[string]any
	if err := json.Unmarshal(doc, &all); err != nil {
		return nil, err
	}
	served := map[string]bool{}
	for _, p := range catalog.Paths() {
		served["/"+p+"/"] = true
	}
	paths := all["paths"].(map[string]any)
	for p := range paths {
		if !served[root(p)] {
			delete(paths, p)
		}
	}
	definitions := all["definitions"].(map[string]any)
	reached := map[string]any{}
	reach(paths, definitions, reached)
	reach(all["parameters"], definitions, reached)
	all["definitions"] = reached
	return json.Marshal(all)
}

// root is the path of the group version (or group, or document) to which a path belongs.
func root(p string) string {
	parts := strings.Split(strings.Trim(p, "/"), "/")
	n := len(parts)
	switch {
	case parts[0] == "apis":
		n = min(n, 3)
	case parts[0] == "api":
		n = min(n, 2)
	}
	return "/" + strings.Join(parts[:n], "/") + "/"
}

// reach collects into found every definition that v refers to.
func reach(v any, definitions, found map[string]any) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["$ref"].(string); ok {
			visit(strings.TrimPrefix(ref, "#/definitions/"), definitions, found)
		}
		for _, e := range v {
			reach(e, definitions, found)
		}
	case []any:
		for _, e := range v {
			reach(e, definitions, found)
		}
	}
}

func visit(name string, definitions, found map[string]any) {
	def, ok := definitions[name]
	if _, seen := found[name]; seen || !ok {
		return
	}
	found[name] = def
	reach(def, definitions, found)
}
