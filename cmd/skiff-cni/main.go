// Command skiff-cni is skiff's built-in pod network as an ordinary CNI plugin, for container runtimes that bring
// none: put it into /opt/cni/bin and name it in a configuration list by its type, "skiff-cni". network/README.md
// lists the keys of its configuration.
package main

import (
	"os"

	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/engine"
)

func main() {
	os.Exit(cni.Main(engine.Standalone{}, "skiff-cni: a routed pod network with journaled addresses and published ports"))
}
