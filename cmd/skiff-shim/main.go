// Command skiff-shim drives a containerd shim as an OCI runtime: the keeper calls it for runtime handlers of type "shim".
// See runtimeservice/shim.
package main

import (
	"os"

	"github.com/skiff-node/skiff/runtimeservice/shim"
)

func main() {
	os.Exit(shim.Main(os.Args[1:]))
}
