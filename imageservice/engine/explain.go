package engine

import (
	"context"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/engine/trust"
	"github.com/skiff-node/skiff/imageservice/policy"
	"github.com/skiff-node/skiff/imageservice/remote"
)

var _ imageservice.Explainer = (*Engine)(nil)

// Explain says how a reference would be pulled. See imageservice.Explainer.
func (e *Engine) Explain(ctx context.Context, ref string, probe bool) (imageservice.Explanation, error) {
	return Explain(ctx, current(e), ref, probe)
}

// Explain is the same without an engine: of cfg only what concerns registries is used.
func Explain(ctx context.Context, cfg Config, ref string, probe bool) (imageservice.Explanation, error) {
	n, err := catalog.ParseName(ref)
	if err != nil {
		return imageservice.Explanation{}, err
	}
	x, err := remote.Explain(ctx, remote.Config{
		CertsDirs: cfg.CertsDirs, DockerConfig: cfg.DockerConfig, StallTimeout: cfg.StallTimeout,
	}, n.Full, probe)
	if err != nil || cfg.Policy == "" {
		return x, err
	}
	rule, err := trust.New(cfg.Policy).Rule(policy.Docker, n.Full)
	for _, r := range rule.Requirements() {
		x.Policy = append(x.Policy, imageservice.PolicyExplanation{File: rule.File, Scope: rule.Scope, Requirement: r})
	}
	return x, err
}
