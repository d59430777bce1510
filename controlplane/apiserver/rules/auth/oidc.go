package auth

import (
	"fmt"

	"github.com/emicklei/go-restful/v3"
	"k8s.io/kubernetes/pkg/routes"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// InstallDiscovery publishes the issuer and the keys of service-account tokens (OpenID Connect Discovery 1.0), so that
// others can verify tokens. address is where clients reach the server.
func (t Tokens) InstallDiscovery(c *restful.Container, address string) error {
	p, err := serviceaccount.NewOpenIDMetadataProvider(t.Names[0], "", address, t.Keys)
	if err != nil {
		return fmt.Errorf("discovery document of service-account tokens: %w", err)
	}
	routes.NewOpenIDMetadataServer(p).Install(c)
	return nil
}
