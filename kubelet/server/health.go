package server

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// doctor looks after the kubelet's health.
type doctor struct{ *Server }

// check is one of the checks of the kubelet's health.
type check struct {
	name string
	run  func() error
}

// checks are upstream's: that the server answers is two of them, and that the pods are looked after.
func (s doctor) checks() []check {
	well := func() error { return nil }
	return []check{{"ping", well}, {"log", well}, {"syncloop", s.cfg.Healthy}}
}

// healthz is the handler of the port without gates.
func (s doctor) healthz() http.Handler {
	mux := http.NewServeMux()
	s.health(mux)
	return mux
}

// health adds /healthz and a page for each check.
func (s doctor) health(mux *http.ServeMux) {
	mux.HandleFunc("/healthz", s.all)
	for _, c := range s.checks() {
		mux.HandleFunc("/healthz/"+c.name, func(w http.ResponseWriter, _ *http.Request) {
			if err := s.made(c); err != nil {
				http.Error(w, fmt.Sprintf("internal server error: %v", err), http.StatusInternalServerError)
				return
			}
			say(w, http.StatusOK, "ok")
		})
	}
}

// made makes a check and tells of it.
func (s doctor) made(c check) error {
	err := c.run()
	s.cfg.Checked(c.name, err)
	return err
}

// all makes all checks but those that the request excludes, and tells of each when one fails or the request is ?verbose.
func (s doctor) all(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var text strings.Builder
	sick := false
	for _, c := range s.checks() {
		if slices.Contains(query["exclude"], c.name) {
			fmt.Fprintf(&text, "[+]%s excluded: ok\n", c.name)
			continue
		}
		if err := s.made(c); err != nil {
			sick = true
			fmt.Fprintf(&text, "[-]%s failed: %v\n", c.name, err)
			continue
		}
		fmt.Fprintf(&text, "[+]%s ok\n", c.name)
	}
	_, verbose := query["verbose"]
	switch {
	case sick:
		http.Error(w, text.String()+"healthz check failed", http.StatusInternalServerError)
	case verbose:
		say(w, http.StatusOK, text.String()+"healthz check passed\n")
	default:
		say(w, http.StatusOK, "ok")
	}
}
