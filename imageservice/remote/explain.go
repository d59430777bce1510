package remote

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/creds"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// Explain says how the full reference would be pulled. With probe each host is asked for it.
func Explain(ctx context.Context, cfg Config, ref string, probe bool) (imageservice.Explanation, error) {
	s := &Session{cfg: cfg}
	if err := s.name(ref); err != nil {
		return imageservice.Explanation{}, err
	}
	registry, err := hosts.Find(cfg.CertsDirs, s.registry)
	if err != nil {
		return imageservice.Explanation{}, err
	}
	chain, err := creds.New(s.registry, s.repository, imageservice.Auth{}, cfg.DockerConfig)
	if err != nil {
		return imageservice.Explanation{}, err
	}
	out := imageservice.Explanation{
		Reference: ref, Registry: s.registry, File: registry.File, Directory: registry.Dir, Warnings: registry.Warnings,
	}
	for _, conf := range registry.Hosts {
		h := explainHost(ctx, conf, registry.File, chain)
		asked, err := newHost(conf, s.registry, s.repository, chain)
		switch {
		case err != nil:
			h.Problem = err.Error()
		case probe:
			h.Probe = asked.probe(ctx, s.object)
		}
		out.Hosts = append(out.Hosts, h)
	}
	return out, nil
}

func explainHost(ctx context.Context, conf hosts.Host, file string, chain *creds.Chain) imageservice.HostExplanation {
	h := imageservice.HostExplanation{
		URL: conf.URL(), Reason: conf.Reason, Capabilities: conf.Capabilities, Headers: slices.Sorted(maps.Keys(conf.Header)),
		TLS: imageservice.TLSExplanation{Mode: mode(conf), CA: conf.TLS.CA},
	}
	if conf.Line > 0 {
		h.From = fmt.Sprintf("%s:%d", file, conf.Line)
	}
	if conf.DialTimeout > 0 {
		h.DialTimeout = conf.DialTimeout.String()
	}
	for _, pair := range conf.TLS.Client {
		h.TLS.Client = append(h.TLS.Client, slices.DeleteFunc([]string{pair[0], pair[1]}, func(f string) bool { return f == "" }))
	}
	c, err := chain.For(ctx, conf)
	if err != nil {
		h.Problem = err.Error()
	}
	h.Credential, h.CredentialAt = c.Kind(), c.Source
	return h
}

func mode(conf hosts.Host) string {
	m := conf.Scheme
	if conf.Scheme == "https" && conf.TLS.SkipVerify {
		m += ", not verified"
	}
	if conf.PlainFallback {
		m += ", or else http"
	}
	return m
}

// probeTimeout bounds asking one host.
const probeTimeout = 15 * time.Second

func (h *host) probe(ctx context.Context, object string) *imageservice.ProbeExplanation {
	defer h.closeIdle()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	began := time.Now()
	desc, err := h.resolve(ctx, object, false)
	out := &imageservice.ProbeExplanation{Took: time.Since(began).Round(time.Millisecond).String()}
	if err != nil {
		out.Error = err.Error() + h.remedy(err)
		return out
	}
	out.Digest, out.MediaType = desc.Digest.String(), desc.MediaType
	return out
}
