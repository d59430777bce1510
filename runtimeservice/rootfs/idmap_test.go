package rootfs

import "testing"

func TestCommonParent(t *testing.T) {
	for _, tc := range []struct {
		want string
		dirs []string
	}{
		{"/l", []string{"/l/1"}},
		{"/l", []string{"/l/1", "/l/2", "/l/33"}},
		{"/l", []string{"/l/1/fs", "/l/12/fs"}},
		{"/", []string{"/a/1", "/b/1"}},
		{"/", []string{"/a"}},
	} {
		if got := commonParent(tc.dirs); got != tc.want {
			t.Errorf("%q: %s, want %s", tc.dirs, got, tc.want)
		}
	}
}
