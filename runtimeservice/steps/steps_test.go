package steps

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// script makes steps that write what happens; the names say what fails: "b!" its Do, "c?" its Undo.
func script(log *[]string, names ...string) []Step {
	var list []Step
	for _, name := range names {
		plain := strings.Trim(name, "!?")
		act := func(verb string, fails bool) func(context.Context) error {
			return func(context.Context) error {
				*log = append(*log, verb+plain)
				if fails {
					return errors.New("no " + plain)
				}
				return nil
			}
		}
		list = append(list, Step{
			Name: plain, Do: act("+", strings.Contains(name, "!")), Undo: act("-", strings.Contains(name, "?")),
		})
	}
	return list
}

func TestRun(t *testing.T) {
	for _, tc := range []struct{ names, log, err string }{
		{"a b c", "+a +b +c", ""},
		{"a b! c", "+a +b -b -a", "b: no b"},
		{"a? b! c", "+a +b -b -a", `b: no b; then: undo "a": no a`},
		{"a! b", "+a -a", "a: no a"},
	} {
		var log []string
		err := Run(t.Context(), script(&log, strings.Fields(tc.names)...))
		text := ""
		if err != nil {
			text = err.Error()
		}
		if got := strings.Join(log, " "); got != tc.log || text != tc.err {
			t.Errorf("%s: %s, %q; want %s, %q", tc.names, got, text, tc.log, tc.err)
		}
	}
}

func TestCancelledIsUndone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var log []string
	list := script(&log, "a", "b")
	list[0].Do = func(context.Context) error { cancel(); return nil }
	err := Run(ctx, list)
	if !errors.Is(err, context.Canceled) || strings.Join(log, " ") != "-b -a" {
		t.Fatalf("%v, %v", err, log)
	}
}
