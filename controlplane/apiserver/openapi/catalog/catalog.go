// Package catalog names the OpenAPI documents that the API server embeds; their generator and their server share it.
package catalog

import "strings"

const (
	// JSON and Proto are the suffixes of the files of a document.
	JSON, Proto = ".json.gz", ".pb.gz"
	// SwaggerFile is the name of the document of OpenAPI v2.
	SwaggerFile = "swagger"
)

// groupVersions are the group versions with a document: all that the API server serves.
func groupVersions() []string {
	return []string{
		"admissionregistration.k8s.io/v1", "apiextensions.k8s.io/v1", "apps/v1", "authentication.k8s.io/v1", "authorization.k8s.io/v1",
		"autoscaling/v1", "autoscaling/v2", "batch/v1", "certificates.k8s.io/v1", "coordination.k8s.io/v1", "discovery.k8s.io/v1",
		"events.k8s.io/v1", "flowcontrol.apiserver.k8s.io/v1", "networking.k8s.io/v1", "node.k8s.io/v1", "policy/v1",
		"rbac.authorization.k8s.io/v1", "resource.k8s.io/v1", "scheduling.k8s.io/v1", "storage.k8s.io/v1",
		"storagemigration.k8s.io/v1",
	}
}

// Paths are the paths with a document of their own.
func Paths() []string {
	paths := []string{".well-known/openid-configuration", "openid/v1/jwks", "version", "api", "api/v1", "apis"}
	seen := map[string]bool{}
	for _, gv := range groupVersions() {
		group, _, _ := strings.Cut(gv, "/")
		if !seen[group] {
			seen[group] = true
			paths = append(paths, "apis/"+group)
		}
		paths = append(paths, "apis/"+gv)
	}
	return paths
}

// FileName is the name, without suffix, of the file of a path's document.
func FileName(path string) string { return strings.ReplaceAll(path, "/", "__") }
