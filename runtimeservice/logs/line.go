// Package logs is the format of a container's log file as CRI defines it, and as kubelets and log shippers read it:
//
//	2026-01-02T15:04:05.000000000Z stdout F text of the line
//	└── RFC 3339, always 9 digits ┘ │     │ └─ bytes as written, without the newline
//	                  stdout, stderr┘     └─ F: the line ends here; P: it goes on in the next entry of this stream
//
// The package is pure: it formats and parses, and touches no file. Source: k8s.io/cri-api, the comment of
// ContainerConfig.log_path; k8s.io/cri-client/pkg/logs.
package logs

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// TimeFormat is RFC 3339 with all nine digits of the fraction, so that entries sort as text.
const TimeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// MaxContent is the longest content of one entry, in bytes. Longer lines are split in P entries and a last F.
const MaxContent = 16 << 10

// Stream is where a container wrote.
type Stream string

// The two streams. A container with a terminal has only Stdout.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// ErrSyntax says that a line is not a log entry.
var ErrSyntax = errors.New("not a CRI log entry")

// Entry is one line of a log file.
type Entry struct {
	Time    time.Time
	Stream  Stream
	Partial bool
	Content []byte
}

// Append formats the entry, with its newline, behind dst.
func (e Entry) Append(dst []byte) []byte {
	dst = e.Time.UTC().AppendFormat(dst, TimeFormat)
	dst = append(dst, ' ')
	dst = append(dst, e.Stream...)
	if e.Partial {
		dst = append(dst, " P "...)
	} else {
		dst = append(dst, " F "...)
	}
	dst = append(dst, e.Content...)
	return append(dst, '\n')
}

// Parse reads one line, with or without its newline. Content aliases line.
func Parse(line []byte) (Entry, error) {
	line = bytes.TrimSuffix(line, []byte{'\n'})
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return Entry{}, fmt.Errorf("%w: no time", ErrSyntax)
	}
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return Entry{}, fmt.Errorf("%w: time %q", ErrSyntax, stamp)
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || (Stream(stream) != Stdout && Stream(stream) != Stderr) {
		return Entry{}, fmt.Errorf("%w: stream %q", ErrSyntax, stream)
	}
	tags, content, ok := bytes.Cut(rest, []byte{' '})
	if !ok && len(tags) == 0 {
		return Entry{}, fmt.Errorf("%w: no tag", ErrSyntax)
	}
	// More tags may follow the first one, separated by colons.
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	switch string(tag) {
	case "P":
		return Entry{Time: at, Stream: Stream(stream), Partial: true, Content: content}, nil
	case "F":
		return Entry{Time: at, Stream: Stream(stream), Content: content}, nil
	}
	return Entry{}, fmt.Errorf("%w: tag %q", ErrSyntax, tag)
}

// Splitter turns the chunks read from one stream into entries. It holds no data back: a chunk's unfinished last line
// becomes a P entry at once, so nothing is lost when the writer dies and a prompt shows without its newline.
type Splitter struct {
	Stream Stream
	open   bool // the last entry was partial
}

// Resume is the splitter of a stream whose log ends in tail, which may begin inside an entry.
func Resume(stream Stream, tail []byte) Splitter {
	s := Splitter{Stream: stream}
	for line := range bytes.Lines(tail) {
		if e, err := Parse(line); err == nil && e.Stream == stream {
			s.open = e.Partial
		}
	}
	return s
}

// Append formats what was read at the given time behind dst.
func (s *Splitter) Append(dst, chunk []byte, at time.Time) []byte {
	for len(chunk) > 0 {
		line, rest, whole := bytes.Cut(chunk, []byte{'\n'})
		if len(line) > MaxContent {
			line, rest, whole = line[:MaxContent], chunk[MaxContent:], false
		}
		dst = Entry{Time: at, Stream: s.Stream, Partial: !whole, Content: line}.Append(dst)
		s.open = !whole
		chunk = rest
	}
	return dst
}

// End closes an unfinished line with an empty F entry, at the end of the stream.
func (s *Splitter) End(dst []byte, at time.Time) []byte {
	if !s.open {
		return dst
	}
	s.open = false
	return Entry{Time: at, Stream: s.Stream}.Append(dst)
}
