package podlog

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// entry is one line of a log file.
type entry struct {
	time   time.Time
	stderr bool
	// text has the end of line, unless the runtime has cut the line here.
	text []byte
}

// stampOut is how times are shown: always with nine digits, so that columns line up.
const stampOut = "2006-01-02T15:04:05.000000000Z07:00"

// parse takes a line apart.
func parse(raw []byte) (entry, bool) {
	var e entry
	raw = bytes.TrimSuffix(raw, []byte("\n"))
	fields := bytes.SplitN(raw, []byte(" "), 4)
	const least = 3 // an empty line may come without the space before it
	if len(fields) < least {
		return e, false
	}
	var err error
	if e.time, err = time.Parse(time.RFC3339Nano, string(fields[0])); err != nil {
		return e, false
	}
	switch string(fields[1]) {
	case "stdout":
	case "stderr":
		e.stderr = true
	default:
		return e, false
	}
	if len(fields) > least {
		e.text = fields[3]
	}
	tag, _, _ := bytes.Cut(fields[2], []byte(":")) // more tags may follow
	if string(tag) != "P" {
		e.text = append(e.text[:len(e.text):len(e.text)], '\n')
	}
	return e, true
}

// errLimit ends the reading when enough has been written.
var errLimit = errors.New("limit reached")

// printer writes entries.
type printer struct {
	limit      int64 // bytes that may still be written; negative for no limit
	timestamps bool
	fresh      bool // the next entry begins a line
}

func (p *printer) print(w io.Writer, e *entry) error {
	if p.timestamps && p.fresh {
		if err := p.write(w, e.time.AppendFormat(nil, stampOut+" ")); err != nil {
			return err
		}
	}
	p.fresh = bytes.HasSuffix(e.text, []byte("\n"))
	return p.write(w, e.text)
}

func (p *printer) write(w io.Writer, b []byte) error {
	if p.limit >= 0 && int64(len(b)) >= p.limit {
		b = b[:p.limit]
	}
	if _, err := w.Write(b); err != nil {
		return err
	}
	if p.limit >= 0 {
		if p.limit -= int64(len(b)); p.limit == 0 {
			return errLimit
		}
	}
	return nil
}
