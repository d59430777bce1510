package apiserver

import (
	"fmt"
	"net"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// serving is the TLS side: the certificate and the client CA are read again whenever their files change.
func (s *settings) serving(l net.Listener) (*genericapiserver.SecureServingInfo, error) {
	cert, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert", s.ServingCert, s.ServingKey)
	if err != nil {
		return nil, fmt.Errorf("API server: serving certificate: %w", err)
	}
	ca, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", s.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("API server: client CA: %w", err)
	}
	return &genericapiserver.SecureServingInfo{Listener: l, Cert: cert, ClientCA: ca}, nil
}

// frontProxy reads the CA of the authenticating proxy; nil means there is none.
func (s *settings) frontProxy() (*authenticatorfactory.RequestHeaderConfig, error) {
	if s.FrontProxy.CA == "" {
		return nil, nil
	}
	ca, err := dynamiccertificates.NewDynamicCAContentFromFile("request-header", s.FrontProxy.CA)
	if err != nil {
		return nil, fmt.Errorf("API server: front-proxy CA: %w", err)
	}
	return &authenticatorfactory.RequestHeaderConfig{
		UsernameHeaders:     headerrequest.StaticStringSlice{"X-Remote-User"},
		UIDHeaders:          headerrequest.StaticStringSlice{"X-Remote-Uid"},
		GroupHeaders:        headerrequest.StaticStringSlice{"X-Remote-Group"},
		ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
		CAContentProvider:   ca,
		AllowedClientNames:  headerrequest.StaticStringSlice(s.FrontProxy.AllowedNames),
	}, nil
}
