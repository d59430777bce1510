package apiserver

import (
	"runtime"

	apimachineryversion "k8s.io/apimachinery/pkg/version"
	"k8s.io/component-base/compatibility"
)

const (
	// kubernetesVersion is the version of upstream whose rules are built in.
	kubernetesVersion = "v1.37.2"
	// gitVersion is what clients see at /version.
	gitVersion = kubernetesVersion + "+skiff"
)

// effectiveVersion is the version of the API, with our name in what /version says.
type effectiveVersion struct {
	compatibility.EffectiveVersion
}

func newEffectiveVersion() compatibility.EffectiveVersion {
	return effectiveVersion{compatibility.NewEffectiveVersionFromString("1.37", "1.37", "1.36")}
}

// Info implements compatibility.EffectiveVersion.
func (effectiveVersion) Info() *apimachineryversion.Info {
	return &apimachineryversion.Info{
		Major: "1", Minor: "37",
		EmulationMajor: "1", EmulationMinor: "37", MinCompatibilityMajor: "1", MinCompatibilityMinor: "36",
		GitVersion: gitVersion, GitTreeState: "clean",
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
}
