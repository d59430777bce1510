// Package configurationtest makes configurations for tests.
package configurationtest

import (
	"testing"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/kubelet/configuration"
)

// With is a complete configuration with these lines of YAML in it.
func With(t *testing.T, lines string) *kubeletconfig.KubeletConfiguration {
	t.Helper()
	c := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict([]byte(lines), c); err != nil {
		t.Fatal(err)
	}
	c, err := configuration.Complete(c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
