// Package rules is the fence around k8s.io/kubernetes: only it and its sub-packages import upstream's internal
// packages. It names, for each kind served, upstream's strategy (defaulting, validation on create and update, what a
// client may change, warnings) in one table; one generic REST serves all of them.
//
// Objects are held in memory as upstream's internal types, because validation, printers and admission work on these.
package rules

import (
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admission/install"             // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install" // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/apps/install"                  // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"        // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"         // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"           // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/batch/install"                 // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"          // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"          // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/core/install"                  // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"             // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/events/install"                // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"           // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/networking/install"            // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/node/install"                  // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/policy/install"                // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"                  // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/resource/install"              // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"            // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/storage/install"               // registers the group with the scheme
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"      // registers the group with the scheme
)

// Scheme holds every type of the built-in groups, with conversions and defaults.
func Scheme() *runtime.Scheme { return legacyscheme.Scheme }

// Codecs encodes lists item by item, so that a large list is never held twice in memory.
func Codecs() serializer.CodecFactory {
	return serializer.NewCodecFactory(legacyscheme.Scheme,
		serializer.WithStreamingCollectionEncodingToJSON(),
		serializer.WithStreamingCollectionEncodingToProtobuf())
}

// ParameterCodec reads the options of a request from its query.
func ParameterCodec() runtime.ParameterCodec { return legacyscheme.ParameterCodec }
