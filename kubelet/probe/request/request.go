// Package request makes the HTTP requests of probes and lifecycle hooks from their httpGet action.
package request

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// New makes a request to the action's host, or to host when it names none.
func New(ctx context.Context, action *v1.HTTPGetAction, c *v1.Container, host, agent string) (*http.Request, error) {
	scheme := strings.ToLower(string(action.Scheme))
	if scheme == "" {
		scheme = "http"
	}
	if action.Host != "" {
		host = action.Host
	}
	port, err := Port(action.Port, c)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(action.Path)
	if err != nil { // a path that is no URL is taken as it is
		u = &url.URL{Path: action.Path}
	}
	u.Scheme, u.Host = scheme, net.JoinHostPort(host, strconv.Itoa(port))
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for _, h := range action.HTTPHeaders {
		req.Header.Add(h.Name, h.Value)
	}
	setDefault(req.Header, "User-Agent", agent)
	setDefault(req.Header, "Accept", "*/*")
	if h := req.Header.Get("Host"); h != "" {
		req.Host = h
	}
	return req, nil
}

// setDefault sets a header that is not given. One that is given empty is left out altogether.
func setDefault(h http.Header, name, value string) {
	given, ok := h[name]
	if !ok {
		h.Set(name, value)
		return
	}
	if len(given) == 1 && given[0] == "" {
		if name == "User-Agent" {
			return // an empty value is what makes net/http send none
		}
		h.Del(name)
	}
}

// Port resolves a port given by number or by the name of one of the container's ports.
func Port(p intstr.IntOrString, c *v1.Container) (int, error) {
	port := p.IntValue()
	if p.Type == intstr.String {
		for i := range c.Ports {
			if c.Ports[i].Name == p.StrVal {
				port = int(c.Ports[i].ContainerPort)
			}
		}
	}
	if port <= 0 || port > 65535 {
		return 0, fmt.Errorf("invalid port number: %v", p.String())
	}
	return port, nil
}
