package imagetest

import (
	"testing"

	"github.com/skiff-node/skiff/imageservice"
)

func TestFake(t *testing.T) {
	Run(t, func(t *testing.T) imageservice.Service {
		f := NewFake()
		f.Rootfs = t.TempDir()
		return f
	})
}
