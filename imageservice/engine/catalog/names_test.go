package catalog

import "testing"

func TestPattern(t *testing.T) {
	for _, tc := range []struct {
		pattern, name string
		want          bool
	}{
		{"a/b:1", "a/b:1", true}, {"a/b:1", "a/b:12", false}, {"a/*", "a/b:1", true}, {"*b*", "a/b:1", true}, {"*", "x", true},
		{"a*a", "a", false}, {"a*c*e", "abcde", true}, {"a*c*e", "abde", false}, {"*:1", "a/b:1", true}, {"", "x", false},
	} {
		if got := pattern(tc.pattern, tc.name); got != tc.want {
			t.Errorf("pattern(%q, %q) is %t", tc.pattern, tc.name, got)
		}
	}
}
