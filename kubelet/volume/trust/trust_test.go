package trust

import (
	"context"
	"encoding/pem"
	"strings"
	"testing"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func bundle(name, signer, label string, certs ...string) *certv1.ClusterTrustBundle {
	text := ""
	for _, c := range certs {
		text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"Name": name}, Bytes: []byte(c)}))
	}
	return &certv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"l": label}},
		Spec: certv1.ClusterTrustBundleSpec{SignerName: signer, TrustBundle: text}}
}

// certs lists what is in a bundle.
func certs(text []byte) map[string]int {
	found := map[string]int{}
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return found
		}
		found[string(b.Bytes)]++
	}
}

func TestBundle(t *testing.T) {
	client := fake.NewClientset(bundle("a", "", "", "one", "two"), bundle("s:b", "s", "x", "two", "three"), bundle("s:c", "s", "y", "two", "four"), bundle("o:d", "o", "x", "five"))
	changed := make(chan struct{}, 100)
	s, err := New(client, func() { changed <- struct{}{} })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	if len(client.Actions()) != 0 {
		t.Error("watched before anybody asked")
	}
	for _, tc := range []struct {
		name string
		src  v1.ClusterTrustBundleProjection
		want string // certificates, or the error
	}{
		{"by name", v1.ClusterTrustBundleProjection{Name: ptr.To("a")}, "one two"},
		{"missing", v1.ClusterTrustBundleProjection{Name: ptr.To("z")}, `while getting ClusterTrustBundle: clustertrustbundle.certificates.k8s.io "z" not found`},
		{"optional", v1.ClusterTrustBundleProjection{Name: ptr.To("z"), Optional: ptr.To(true)}, ""},
		{"by signer", v1.ClusterTrustBundleProjection{SignerName: ptr.To("s"), LabelSelector: &metav1.LabelSelector{}}, "two three four"},
		{"by label", v1.ClusterTrustBundleProjection{SignerName: ptr.To("s"), LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"l": "y"}}}, "two four"},
		{"no selector", v1.ClusterTrustBundleProjection{SignerName: ptr.To("s")}, "combination of signerName and labelSelector matched zero ClusterTrustBundles"},
		{"optional signer", v1.ClusterTrustBundleProjection{SignerName: ptr.To("z"), LabelSelector: &metav1.LabelSelector{}, Optional: ptr.To(true)}, ""},
		{"neither", v1.ClusterTrustBundleProjection{}, "ClusterTrustBundle projection requires either name or signerName to be set"},
	} {
		got, err := s.Bundle(ctx, &tc.src)
		if err != nil {
			if err.Error() != tc.want {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		all := certs(got)
		for _, want := range strings.Fields(tc.want) {
			if all[want] != 1 {
				t.Errorf("%s: %d times %q", tc.name, all[want], want)
			}
		}
		if len(all) != len(strings.Fields(tc.want)) || strings.Contains(string(got), "Name:") {
			t.Errorf("%s: %s", tc.name, got)
		}
		again, err := s.Bundle(ctx, &tc.src)
		if err != nil || string(again) != string(got) {
			t.Errorf("%s: another order the second time", tc.name)
		}
	}
	for len(changed) > 0 {
		<-changed
	}
	if err := client.CertificatesV1().ClusterTrustBundles().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	<-changed
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
