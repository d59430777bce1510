package spec

import "strings"

// Expand replaces $(NAME) by what lookup gives for NAME; a name it does not know stays as written, and $$ is a literal $.
// It returns the first unknown name.
func Expand(s string, lookup func(string) (string, bool)) (out, unknown string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		if s[i+1] == '$' {
			b.WriteByte('$')
			i++
			continue
		}
		end := strings.IndexByte(s[i:], ')')
		if s[i+1] != '(' || end < 0 {
			b.WriteByte('$')
			continue
		}
		name := s[i+2 : i+end]
		if value, ok := lookup(name); ok {
			b.WriteString(value)
		} else {
			b.WriteString(s[i : i+end+1])
			if unknown == "" {
				unknown = name
			}
		}
		i += end
	}
	return b.String(), unknown
}
