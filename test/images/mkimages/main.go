// Command mkimages writes the project's own images as archives: mkimages BINDIR OUTDIR.
package main

import (
	"fmt"
	"os"

	"github.com/skiff-node/skiff/test/images"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: mkimages BINDIR OUTDIR")
		os.Exit(2)
	}
	if err := images.WriteCatalog(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "mkimages:", err)
		os.Exit(1)
	}
}
