package queue

import (
	"bufio"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// Each script is a transcript: "> command", then what the queue answers.
//
//	add NAME [PRIORITY] [LABEL]   a new pod, or a new version of it
//	pop                           the pod whose turn it is
//	refuse NAME EVENTS            park it until one of the events (gone, node)
//	retry NAME                    back off after an error
//	wake EVENTS
//	remove NAME
//	after DURATION                the clock moves on
//	state                         active, backoff and parked pods; time until the next look
func TestTranscripts(t *testing.T) {
	for name, script := range map[string]string{
		"important first, then first come": `
> add a
> add b 5
> add c
> add d 5
> pop
b
> pop
d
> pop
a
> pop
c
> pop
-`,
		"a refused pod waits for a change that may help": `
> add a
> pop
a
> refuse a gone
> state
active 0, backoff 0, parked 1, next in 5m0s
> wake node
> pop
-
> after 3s
> wake gone
> state
active 1, backoff 0, parked 0
> pop
a`,
		"woken early it does not wait while nobody else does": `
> add a
> pop
a
> refuse a gone
> wake gone
> state
active 0, backoff 1, parked 0, next in 1s
> pop
a`,
		"woken early it lets others go first": `
> add a 9
> pop
a
> refuse a gone
> wake gone
> add b
> pop
b
> pop
a`,
		"backoff doubles up to its limit": `
> add a
> pop
a
> retry a
> state
active 0, backoff 1, parked 0, next in 1s
> pop
-
> after 1s
> pop
a
> retry a
> state
active 0, backoff 1, parked 0, next in 2s
> after 2s
> pop
a
> retry a
> after 4s
> pop
a
> retry a
> after 8s
> pop
a
> retry a
> state
active 0, backoff 1, parked 0, next in 10s`,
		"a parked pod is looked at again after a while": `
> add a
> pop
a
> refuse a gone
> after 5m
> pop
a`,
		"a changed pod is asked about again": `
> add a
> pop
a
> refuse a node
> after 1m
> add a 0 app=x
> pop
a`,
		"the same pod again is not": `
> add a
> pop
a
> refuse a node
> after 1m
> add a
> pop
-`,
		"removed wherever it is": `
> add a
> remove a
> pop
-
> add b
> pop
b
> remove b
> retry b
> refuse b node
> state
active 0, backoff 0, parked 0
> add c
> pop
c
> refuse c node
> remove c
> wake node
> pop
-`,
	} {
		t.Run(name, func(t *testing.T) { play(t, script) })
	}
}

func play(t *testing.T, script string) {
	t.Helper()
	q, now := New(), time.Unix(0, 0)
	var got strings.Builder
	lines := bufio.NewScanner(strings.NewReader(strings.TrimSpace(script)))
	for lines.Scan() {
		line := lines.Text()
		if !strings.HasPrefix(line, "> ") {
			continue
		}
		fmt.Fprintln(&got, line)
		if d, ok := strings.CutPrefix(line, "> after "); ok {
			step, err := time.ParseDuration(d)
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(step)
			continue
		}
		if answer := perform(q, now, strings.Fields(line)[1:]); answer != "" {
			fmt.Fprintln(&got, answer)
		}
	}
	if g, w := strings.TrimSpace(got.String()), strings.TrimSpace(script); g != w {
		t.Errorf("got\n%s\n\nwant\n%s", g, w)
	}
}

func perform(q *Queue, now time.Time, args []string) string {
	events := map[string]filter.Events{"gone": filter.PodGone, "node": filter.NodeAdded}
	switch args[0] {
	case "add":
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: args[1], UID: types.UID(args[1])}}
		p := &snapshot.Pod{Object: pod}
		if len(args) > 2 {
			n, _ := strconv.Atoi(args[2])
			p.Priority = int32(n)
		}
		if len(args) > 3 {
			pod.Labels = map[string]string{args[3]: ""}
		}
		q.Add(p, now)
	case "pop":
		if p := q.Pop(now); p != nil {
			return p.Object.Name
		}
		return "-"
	case "refuse":
		q.Refuse(types.UID(args[1]), events[args[2]], now)
	case "retry":
		q.Retry(types.UID(args[1]), now)
	case "wake":
		q.Wake(events[args[1]], now)
	case "remove":
		q.Remove(types.UID(args[1]))
	case "state":
		a, b, p := q.Len()
		out := fmt.Sprintf("active %d, backoff %d, parked %d", a, b, p)
		if next := q.Next(); !next.IsZero() {
			out += fmt.Sprintf(", next in %v", next.Sub(now))
		}
		return out
	default:
		return "unknown command"
	}
	return ""
}
