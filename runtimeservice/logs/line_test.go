package logs

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var at = time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)

const stamp = "2026-01-02T03:04:05.000000600Z "

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", MaxContent)
	for _, tc := range []struct {
		name   string
		chunks []string
		want   []string
	}{
		{"one line", []string{"a\n"}, []string{"stdout F a"}},
		{"two lines in a chunk", []string{"a\nb\n"}, []string{"stdout F a", "stdout F b"}},
		{"empty line", []string{"\n"}, []string{"stdout F "}},
		{"a line in two chunks", []string{"a", "b\n"}, []string{"stdout P a", "stdout F b"}},
		{"newline alone ends a line", []string{"a", "\n"}, []string{"stdout P a", "stdout F "}},
		{"no newline at the end", []string{"a\nb"}, []string{"stdout F a", "stdout P b", "stdout F "}},
		{"carriage return stays", []string{"a\r\n"}, []string{"stdout F a\r"}},
		{"exactly the longest", []string{long + "\n"}, []string{"stdout F " + long}},
		{"one more", []string{long + "y\n"}, []string{"stdout P " + long, "stdout F y"}},
		{"nothing", []string{""}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := Splitter{Stream: Stdout}
			var got []byte
			for _, c := range tc.chunks {
				got = s.Append(got, []byte(c), at)
			}
			got = s.End(got, at)
			want := ""
			for _, w := range tc.want {
				want += stamp + w + "\n"
			}
			if string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestParse(t *testing.T) {
	for in, want := range map[string]Entry{
		stamp + "stdout F hello world\n":               {at, Stdout, false, []byte("hello world")},
		stamp + "stderr P part":                        {at, Stderr, true, []byte("part")},
		stamp + "stderr P:more:tags part":              {at, Stderr, true, []byte("part")},
		stamp + "stdout F ":                            {at, Stdout, false, nil},
		stamp + "stdout F":                             {at, Stdout, false, nil},
		"2026-01-02T04:04:05.0000006+01:00 stdout F x": {at, Stdout, false, []byte("x")},
	} {
		got, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("%q: %v", in, err)
			continue
		}
		if !got.Time.Equal(want.Time) || got.Stream != want.Stream || got.Partial != want.Partial || !bytes.Equal(got.Content, want.Content) {
			t.Errorf("%q: got %+v, want %+v", in, got, want)
		}
	}
	for _, in := range []string{"", "\n", "hello", "yesterday stdout F x", stamp, stamp + "stdin F x", stamp + "stdout X x", stamp + "stdout  x"} {
		if e, err := Parse([]byte(in)); err == nil {
			t.Errorf("%q: parsed as %+v, want an error", in, e)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(stamp + "stdout F hello\n"))
	f.Add([]byte(stamp + "stderr P:x hello"))
	f.Add([]byte("2026-01-02T03:04:05Z stdout F"))
	f.Fuzz(func(t *testing.T, in []byte) {
		e, err := Parse(in)
		if err != nil {
			return
		}
		again, err := Parse(e.Append(nil))
		if e.Time.Year() < 0 || e.Time.UTC().Year() > 9999 || e.Time.UTC().Year() < 0 {
			return
		}
		if err != nil {
			t.Fatalf("%q: the formatted entry does not parse: %v", in, err)
		}
		if again.Stream != e.Stream || again.Partial != e.Partial || !bytes.Equal(bytes.TrimSuffix(again.Content, []byte{'\n'}), bytes.TrimSuffix(e.Content, []byte{'\n'})) {
			t.Fatalf("%q: %+v became %+v", in, e, again)
		}
	})
}

func TestResume(t *testing.T) {
	const tail = "ut F cut off\n2026-01-02T15:04:05.000000000Z stdout P a\n2026-01-02T15:04:05.000000000Z stderr P b\n2026-01-02T15:04:05.000000000Z stderr F c\n2026-01-02T15"
	for stream, open := range map[Stream]bool{Stdout: true, Stderr: false} {
		s := Resume(stream, []byte(tail))
		if got := s.End(nil, time.Now()); (len(got) > 0) != open {
			t.Errorf("%s: closed by %q, want open %v", stream, got, open)
		}
	}
}

// However output is cut into chunks, its entries are well formed and hold it whole.
func FuzzSplitter(f *testing.F) {
	f.Fuzz(func(t *testing.T, output []byte, size int) {
		size = max(1, min(size, 64<<10))
		s := Splitter{Stream: Stdout}
		var text, got []byte
		for rest := output; len(rest) > 0; {
			n := min(size, len(rest))
			text, rest = s.Append(text, rest[:n], time.Unix(1, 0)), rest[n:]
		}
		open := Resume(Stdout, text)
		if a, b := open.End(nil, time.Unix(1, 0)), s.End(nil, time.Unix(1, 0)); !bytes.Equal(a, b) {
			t.Errorf("a resumed splitter ends by %q, its predecessor by %q", a, b)
		}
		for line := range bytes.Lines(text) {
			e, err := Parse(line)
			if err != nil || len(e.Content) > MaxContent {
				t.Fatalf("%v, %d bytes: %q", err, len(e.Content), line)
			}
			if got = append(got, e.Content...); !e.Partial {
				got = append(got, '\n')
			}
		}
		if !bytes.Equal(got, output) {
			t.Errorf("wrote %q, logged %q", output, got)
		}
	})
}
