package term

import (
	"bytes"
	"strings"
	"testing"
)

func TestObjectRefusesUnknownFormats(t *testing.T) {
	p := &Printer{W: &bytes.Buffer{}}
	if err := p.Object("xml", 1); err == nil || !strings.Contains(err.Error(), `"xml"`) {
		t.Fatal(err)
	}
}

func TestNoColourOffTerminal(t *testing.T) {
	var b bytes.Buffer
	p := &Printer{W: &b}
	p.Step(true, "api", "ok")
	if strings.Contains(b.String(), "\x1b") {
		t.Fatalf("%q", b.String())
	}
}

func TestBytes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1500: "1.5 kB", 45_000_000: "45.0 MB"} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
}
