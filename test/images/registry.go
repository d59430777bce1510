package images

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// Who wants anything of a repository below private/ has to be User, and to say Password.
const User, Password = "captain", "parrot"

// Registry is an OCI distribution registry in this process.
type Registry struct {
	Addr   string // host:port
	server *http.Server
}

// Serve starts a registry on the address ("127.0.0.1:0" picks a port) over plain HTTP.
func Serve(addr string) (*Registry, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for the test registry: %w", err)
	}
	r := &Registry{Addr: l.Addr().String(), server: &http.Server{Handler: guarded(registry.New(registry.Logger(log.New(io.Discard, "", 0))))}}
	go r.server.Serve(l)
	return r, nil
}

// guarded asks for the password.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if strings.HasPrefix(r.URL.Path, "/v2/private/") && (user != User || password != Password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Also serves the same images on another listener, which Close closes too.
func (r *Registry) Also(l net.Listener) { go r.server.Serve(l) }

// Push stores an image as <registry>/<repository>:<tag> and returns that reference.
func (r *Registry) Push(repository, tag string, img v1.Image) (string, error) {
	ref, err := name.NewTag(fmt.Sprintf("%s/%s:%s", r.Addr, repository, tag), name.Insecure)
	if err != nil {
		return "", fmt.Errorf("reference: %w", err)
	}
	var options []remote.Option
	if strings.HasPrefix(repository, "private/") {
		options = append(options, remote.WithAuth(&authn.Basic{Username: User, Password: Password}))
	}
	if err := remote.Write(ref, img, options...); err != nil {
		return "", fmt.Errorf("push %s: %w", ref, err)
	}
	return ref.String(), nil
}

// Close stops the registry.
func (r *Registry) Close() error { return r.server.Close() }
