package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"sync"

	"github.com/skiff-node/skiff/imageservice"
)

// server translates between HTTP and the image service.
type server struct{ images imageservice.Service }

// NewServer returns the handler of the API.
func NewServer(svc imageservice.Service) http.Handler {
	s := &server{svc}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/images", s.list)
	mux.HandleFunc("DELETE /v1/images", s.remove)
	mux.HandleFunc("POST /v1/pull", s.pull)
	mux.HandleFunc("PUT /v1/archive", s.load)
	mux.HandleFunc("GET /v1/archive", s.save)
	mux.HandleFunc("GET /v1/explain", s.explain)
	return mux
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

func fail(w http.ResponseWriter, err error) {
	f, status := failure(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(f)
}

func (s *server) list(w http.ResponseWriter, r *http.Request) {
	if ref := r.URL.Query().Get("ref"); ref != "" {
		img, err := s.images.Get(r.Context(), ref)
		if err != nil {
			fail(w, err)
			return
		}
		reply(w, img)
		return
	}
	all, err := s.images.List(r.Context())
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, all)
}

func (s *server) explain(w http.ResponseWriter, r *http.Request) {
	explainer, ok := s.images.(imageservice.Explainer)
	if !ok {
		fail(w, errors.New("this image service cannot explain pulls"))
		return
	}
	q := r.URL.Query()
	x, err := explainer.Explain(r.Context(), q.Get("ref"), q.Get("probe") == "true")
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, x)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) {
	if err := s.images.Remove(r.Context(), r.URL.Query().Get("ref")); err != nil {
		fail(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *server) load(w http.ResponseWriter, r *http.Request) {
	images, err := s.images.Import(r.Context(), r.Body)
	if err != nil {
		fail(w, err)
		return
	}
	reply(w, images)
}

// save answers with an error as long as nothing was written, and after that by breaking the connection.
func (s *server) save(w http.ResponseWriter, r *http.Request) {
	out := &lazyWriter{ResponseWriter: w}
	err := s.images.Export(r.Context(), out, r.URL.Query()["ref"])
	if err == nil {
		return
	}
	if out.begun {
		panic(http.ErrAbortHandler)
	}
	fail(w, err)
}

// lazyWriter remembers whether anything was written.
type lazyWriter struct {
	http.ResponseWriter
	begun bool
}

func (l *lazyWriter) Write(p []byte) (int, error) {
	if !l.begun {
		l.begun = true
		l.Header().Set("Content-Type", "application/x-tar")
	}
	return l.ResponseWriter.Write(p)
}

func (s *server) pull(w http.ResponseWriter, r *http.Request) {
	var req imageservice.PullRequest
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&req); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(Failure{Message: "read pull request: " + err.Error()})
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := &lineWriter{encoder: json.NewEncoder(w), flush: http.NewResponseController(w).Flush}
	req.Progress = func(p imageservice.Progress) { lines.write(message{Progress: &p}) }
	img, err := s.images.Pull(r.Context(), req)
	last := message{Image: &img}
	if err != nil {
		f, _ := failure(err)
		last = message{Error: f}
	}
	lines.last(last)
}

// lineWriter writes messages from any goroutine. What comes after the last one is dropped: a shared pull may still
// report to those who are gone.
type lineWriter struct {
	mu      sync.Mutex
	encoder *json.Encoder
	flush   func() error
	ended   bool
}

func (l *lineWriter) write(m message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || l.encoder.Encode(m) != nil || l.flush() != nil {
		l.ended = true // nobody listens; the pull ends with its context
	}
}

func (l *lineWriter) last(m message) {
	l.write(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
}
