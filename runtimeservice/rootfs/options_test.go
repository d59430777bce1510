package rootfs

import (
	"slices"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
)

func TestWith(t *testing.T) {
	mounts := []imageservice.Mount{
		{Type: "overlay", Options: []string{"xino=off", "upperdir=/u", "lowerdir=/a:/b"}},
		{Type: "bind", Options: []string{"rbind", "ro"}},
	}
	got := With(mounts, []string{"xino=on", "volatile"})
	if want := []string{"xino=on", "volatile", "upperdir=/u", "lowerdir=/a:/b"}; !slices.Equal(got[0].Options, want) {
		t.Errorf("options of the overlay %v, want %v", got[0].Options, want)
	}
	if !slices.Equal(got[1].Options, []string{"rbind", "ro"}) || mounts[0].Options[0] != "xino=off" {
		t.Errorf("the bind mount is %v, and what was given %v", got[1].Options, mounts[0].Options)
	}
}
