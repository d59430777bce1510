package apiserver

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/discovery"
)

// aggregatedJSON asks the manager for its whole list.
const aggregatedJSON = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

// groupList answers GET /apis for clients that do not ask for the aggregated form. It is derived from that form at each
// request, so that groups of custom kinds, which only announce themselves there, are listed too.
type groupList struct {
	source     http.Handler
	serializer runtime.NegotiatedSerializer
	addresses  discovery.Addresses
}

// ServeHTTP implements http.Handler.
func (g *groupList) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	ask := r.Clone(r.Context())
	ask.Header = http.Header{"Accept": {aggregatedJSON}}
	got := httptest.NewRecorder()
	g.source.ServeHTTP(got, ask)
	var all apidiscoveryv2.APIGroupDiscoveryList
	if err := json.Unmarshal(got.Body.Bytes(), &all); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	plain := discovery.NewRootAPIsHandler(g.addresses, g.serializer)
	for _, group := range groups(&all) {
		plain.AddGroup(group)
	}
	plain.ServeHTTP(w, r)
}

// groups is the plain form of the aggregated list.
func groups(all *apidiscoveryv2.APIGroupDiscoveryList) []metav1.APIGroup {
	var out []metav1.APIGroup
	for _, item := range all.Items {
		g := metav1.APIGroup{Name: item.Name}
		for _, v := range item.Versions {
			g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{GroupVersion: item.Name + "/" + v.Version, Version: v.Version})
		}
		if len(g.Versions) > 0 {
			g.PreferredVersion = g.Versions[0]
			out = append(out, g)
		}
	}
	return out
}
