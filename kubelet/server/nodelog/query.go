package nodelog

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of a query.
const (
	mostLines    = 100000
	mostServices = 4
	longestName  = 256
)

// query is what a request asks for.
type query struct {
	names []string // of services
	files []string
	options
}

// options are for the journal.
type options struct {
	since, until time.Time
	tail, boot   optional
	pattern      string
}

type optional struct {
	given bool
	value int
}

// unsafe are the characters that no service has in its name: it becomes part of a command line.
var unsafe = regexp.MustCompile(`[^a-zA-Z\-_.:0-9@]+`)

// parse reads the parameters; nil when there are none. The error names them all.
func parse(v url.Values) (*query, error) {
	q := &query{}
	var errs field.ErrorList
	names, asked := v["query"]
	for _, name := range names {
		switch {
		case strings.ContainsAny(name, `/\`):
			q.files = append(q.files, name)
		case strings.TrimSpace(name) != "":
			q.names = append(q.names, name)
		}
	}
	if asked && len(q.files)+len(q.names) == 0 {
		errs = append(errs, field.Invalid(field.NewPath("query"), names, "may not be empty"))
	}
	for name, into := range map[string]*time.Time{"sinceTime": &q.since, "untilTime": &q.until} {
		text := v.Get(name)
		at, err := time.Parse(time.RFC3339, text)
		switch {
		case text == "":
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(name), text, "invalid time format"))
		default:
			*into = at
		}
	}
	for name, into := range map[string]*optional{"boot": &q.boot, "tailLines": &q.tail} {
		text := v.Get(name)
		n, err := strconv.Atoi(text)
		switch {
		case text == "":
		case err != nil:
			errs = append(errs, field.Invalid(field.NewPath(name), text, err.Error()))
		default:
			*into = optional{true, n}
		}
	}
	q.pattern = v.Get("pattern")
	if len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	if len(q.files)+len(q.names) == 0 && q.options == (options{}) {
		return nil, nil
	}
	return q, nil
}

// validate refuses what cannot be answered.
func (q *query) validate(dir string) error {
	at := field.NewPath("query")
	var errs field.ErrorList
	for _, name := range q.names {
		if len(name) > longestName {
			errs = append(errs, field.Invalid(at, name, fmt.Sprintf("length must be less than %d", longestName)))
		} else if unsafe.MatchString(name) {
			errs = append(errs, field.Invalid(at, name, "input contains unsupported characters"))
		}
	}
	if len(q.names) > mostServices {
		errs = append(errs, field.TooMany(at, len(q.names), mostServices))
	}
	switch {
	case len(q.files)+len(q.names) == 0:
		errs = append(errs, field.Required(at, "cannot be empty with options"))
	case len(q.files) > 0 && len(q.names) > 0:
		errs = append(errs, field.Invalid(at, fmt.Sprintf("%v, %v", q.files, q.names), "cannot specify a file and service"))
	case len(q.files) > 1:
		errs = append(errs, field.Invalid(at, q.files, "cannot specify more than one file"))
	case len(q.files) == 1 && q.options != (options{}):
		errs = append(errs, field.Invalid(at, q.files, "cannot specify file with options"))
	case len(q.files) == 1:
		if err := inside(dir, q.files[0]); err != nil {
			errs = append(errs, field.Invalid(at, q.files, err.Error()))
		}
	}
	errs = append(errs, q.options.validate()...)
	return errs.ToAggregate()
}

// inside tells whether the file is in the directory, wherever links lead.
func inside(dir, file string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	name := strings.TrimLeft(file, "/")
	if name == "" {
		return errors.New("not a file")
	}
	_, err = root.Stat(name)
	return err
}

func (o *options) validate() field.ErrorList {
	var errs field.ErrorList
	if !o.since.IsZero() && !o.until.IsZero() && o.since.After(o.until) {
		errs = append(errs, field.Invalid(field.NewPath("untilTime"), o.until, "must be after `sinceTime`"))
	}
	if o.boot.value > 0 {
		errs = append(errs, field.Invalid(field.NewPath("boot"), o.boot.value, "must be less than 1"))
	}
	if o.tail.given {
		for _, why := range validation.IsInRange(o.tail.value, 0, mostLines) {
			errs = append(errs, field.Invalid(field.NewPath("tailLines"), o.tail.value, why))
		}
	}
	if _, err := syntax.Parse(o.pattern, syntax.Perl); err != nil {
		errs = append(errs, field.Invalid(field.NewPath("pattern"), o.pattern, err.Error()))
	}
	return errs
}

// arguments of the journal's reader.
func (o *options) arguments(units []string) []string {
	const layout = "2006-1-2 15:4:5"
	args := []string{"--utc", "--no-pager", "--output=short-precise"}
	if !o.since.IsZero() {
		args = append(args, "--since="+o.since.Format(layout))
	}
	if !o.until.IsZero() {
		args = append(args, "--until="+o.until.Format(layout))
	}
	if o.tail.given {
		args = append(args, "--pager-end", fmt.Sprintf("--lines=%d", o.tail.value))
	}
	for _, unit := range units {
		args = append(args, "--unit="+unit)
	}
	if o.pattern != "" {
		args = append(args, "--grep="+o.pattern)
	}
	if o.boot.given {
		args = append(args, "--boot", strconv.Itoa(o.boot.value))
	}
	return args
}
