package apiserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/rest"
)

// loopbackAge is the life of the certificate of loopback connections; it is made anew at each start.
const loopbackAge = 10 * 365 * 24 * time.Hour

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

// loopback gives this process a privileged client of its own server: a certificate that only such clients ask for (by
// server name), and a token that only they know. The key is ECDSA: an RSA key would cost up to 200 ms of each start.
func loopback(info *genericapiserver.SecureServingInfo) (*rest.Config, error) {
	cert, key, err := selfSigned(genericapiserver.LoopbackClientServerNameOverride)
	if err != nil {
		return nil, fmt.Errorf("API server: loopback certificate: %w", err)
	}
	sni, err := dynamiccertificates.NewStaticSNICertKeyContent("loopback", cert, key, genericapiserver.LoopbackClientServerNameOverride)
	if err != nil {
		return nil, fmt.Errorf("API server: loopback certificate: %w", err)
	}
	info.SNICerts = append(info.SNICerts, sni)
	cfg, err := info.NewLoopbackClientConfig(rand.Text(), cert)
	if err != nil {
		return nil, fmt.Errorf("API server: loopback client: %w", err)
	}
	cfg.ContentType = "application/vnd.kubernetes.protobuf"
	cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	cfg.DisableCompression = true
	cfg.QPS, cfg.Burst = -1, -1
	return cfg, nil
}

// selfSigned makes a certificate for one name, as PEM.
func selfSigned(name string) (cert, key []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name + "-" + hex.EncodeToString(serial[:4])},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(loopbackAge),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
		DNSNames:              []string{name},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, err
	}
	var c, p bytes.Buffer
	if err := pem.Encode(&c, &pem.Block{Type: "CERTIFICATE", Bytes: der}); err != nil {
		return nil, nil, err
	}
	if err := pem.Encode(&p, &pem.Block{Type: "PRIVATE KEY", Bytes: private}); err != nil {
		return nil, nil, err
	}
	return c.Bytes(), p.Bytes(), nil
}
