// Package openapi serves /openapi/v2 and /openapi/v3 from documents that were made at build time and are embedded
// compressed. Building them at start would cost 0.3 s of CPU and 40 MiB, for the same result each time.
//
// Documents of custom resources are not known at build time: a [Dynamic] source adds its own to the index.
package openapi

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/skiff-node/skiff/controlplane/apiserver/openapi/catalog"
)

//go:generate go run ./generate -out data

//go:embed all:data
var data embed.FS

const prefixV3 = "/openapi/v3/"

// Dynamic is a source of further documents, by path ("apis/example.com/v1"). It serves them itself.
type Dynamic interface {
	// Index maps each path to the URL of its document.
	Index() (map[string]string, error)
	// ServeHTTP answers for the paths of Index.
	ServeHTTP(http.ResponseWriter, *http.Request)
}

// Mux is where handlers are put.
type Mux interface {
	Handle(path string, h http.Handler)
	HandlePrefix(path string, h http.Handler)
}

// Service serves the documents.
type Service struct {
	dynamic Dynamic

	once  sync.Once
	index map[string]string
	err   error
}

// New returns a Service; dynamic may be nil.
func New(dynamic Dynamic) *Service { return &Service{dynamic: dynamic} }

// Install puts the handlers in place.
func (s *Service) Install(m Mux) {
	m.Handle("/openapi/v2", http.HandlerFunc(s.serveV2))
	m.Handle("/openapi/v3", http.HandlerFunc(s.serveIndex))
	m.HandlePrefix(prefixV3, http.HandlerFunc(s.serveV3))
}

func (s *Service) serveV2(w http.ResponseWriter, r *http.Request) {
	serve(w, r, catalog.SwaggerFile, "v2")
}

type index struct {
	Paths map[string]entry `json:"paths"`
}

type entry struct {
	ServerRelativeURL string `json:"serverRelativeURL"`
}

// serveIndex lists the documents with the hash of each, so that clients may keep them for ever.
func (s *Service) serveIndex(w http.ResponseWriter, r *http.Request) {
	s.once.Do(func() { s.index, s.err = builtin() })
	if s.err != nil {
		http.Error(w, s.err.Error(), http.StatusInternalServerError)
		return
	}
	urls := maps.Clone(s.index)
	if s.dynamic != nil {
		more, err := s.dynamic.Index()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		maps.Copy(urls, more)
	}
	out := index{Paths: map[string]entry{}}
	for p, u := range urls {
		out.Paths[p] = entry{u}
	}
	body, err := json.Marshal(out)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	tag := strconv.Quote(hash(body))
	w.Header().Set("Etag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// builtin hashes the embedded documents.
func builtin() (map[string]string, error) {
	urls := map[string]string{}
	for _, p := range catalog.Paths() {
		b, err := data.ReadFile("data/" + catalog.FileName(p) + catalog.JSON)
		if err != nil {
			return nil, fmt.Errorf("embedded document of %s: %w", p, err)
		}
		urls[p] = prefixV3 + p + "?hash=" + hash(b)
	}
	return urls, nil
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return strings.ToUpper(hex.EncodeToString(sum[:]))
}

func (s *Service) serveV3(w http.ResponseWriter, r *http.Request) {
	name := catalog.FileName(strings.TrimPrefix(r.URL.Path, prefixV3))
	if _, err := data.Open("data/" + name + catalog.JSON); err != nil {
		if s.dynamic != nil {
			s.dynamic.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
		return
	}
	if r.URL.Query().Get("hash") != "" {
		w.Header().Set("Cache-Control", "public, immutable, max-age=31536000")
	}
	serve(w, r, name, "v3")
}

// serve answers with the encoding that the client prefers, as stored where it takes gzip.
func serve(w http.ResponseWriter, r *http.Request, name, version string) {
	suffix, kind := negotiate(r.Header.Get("Accept"), version)
	body, err := data.ReadFile("data/" + name + suffix)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	tag := strconv.Quote(hash(body))
	h := w.Header()
	h.Set("Vary", "Accept, Accept-Encoding")
	h.Set("Etag", tag)
	if r.Header.Get("If-None-Match") == tag {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", kind)
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body)
		return
	}
	z, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.Copy(w, z) //nolint:gosec // the data is our own
}

// negotiate picks the first type of an Accept header that there is; nothing acceptable gets JSON.
func negotiate(accept, version string) (suffix, kind string) {
	current := "application/com.github.proto-openapi.spec." + version + ".v1.0+protobuf"
	old := "application/com.github.proto-openapi.spec." + version + "@v1.0+protobuf"
	for clause := range strings.SplitSeq(accept, ",") {
		media, _, _ := strings.Cut(clause, ";")
		switch strings.TrimSpace(media) {
		case current, old:
			return catalog.Proto, current
		case "application/json", "*/*", "application/*":
			return catalog.JSON, "application/json"
		}
	}
	return catalog.JSON, "application/json"
}
