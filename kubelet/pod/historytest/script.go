// Package historytest reads the histories of kubelet/pod/testdata, and says in their words what a pod's status is.
//
// A history is a txtar archive: a file pod.yaml, and before it a list of commands, one a line, each with its answer in the
// lines below it that begin with ">". Two interpreters run them: the tests of package pod in memory, at the speed of
// thought, and the end-to-end tests on a node, with a real kubelet, a real runtime and real time. As both read the
// same text they cannot drift apart.
package historytest

import (
	"fmt"
	"strings"

	"golang.org/x/tools/txtar"
	v1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// Script is one history.
type Script struct {
	// Pod of the history. Its name is p, and a container that names no image has the image "img".
	Pod   *v1.Pod
	Lines []Line

	archive *txtar.Archive
}

// Line is one line of a script: a command with its answer, a comment or an empty line.
type Line struct {
	Text string
	// Command is the command and its arguments, nil for a comment or an empty line.
	Command []string
	// Answer has one entry per line, without the ">".
	Answer []string
}

// Load reads a script.
func Load(file string) (*Script, error) {
	archive, err := txtar.ParseFile(file)
	if err != nil {
		return nil, fmt.Errorf("read history: %w", err)
	}
	s := &Script{Pod: &v1.Pod{}, archive: archive}
	for _, f := range archive.Files {
		if f.Name != "pod.yaml" {
			continue
		}
		if err := yaml.UnmarshalStrict(f.Data, s.Pod); err != nil {
			return nil, fmt.Errorf("pod.yaml of %s: %w", file, err)
		}
	}
	s.complete()
	for _, text := range strings.Split(strings.TrimSuffix(string(archive.Comment), "\n"), "\n") {
		if answer, ok := strings.CutPrefix(text, ">"); ok && len(s.Lines) > 0 {
			last := &s.Lines[len(s.Lines)-1]
			last.Answer = append(last.Answer, strings.TrimPrefix(answer, " "))
			continue
		}
		command, _, _ := strings.Cut(text, "#")
		s.Lines = append(s.Lines, Line{Text: text, Command: strings.Fields(command)})
	}
	return s, nil
}

func (s *Script) complete() {
	p := s.Pod
	p.Name, p.Namespace, p.UID, p.Generation = "p", "ns", "uid", 1
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Image == "" {
				list[i].Image = "img"
			}
		}
	}
}

// Format is the script as a file has it, with the answers of Lines.
func (s *Script) Format() []byte {
	var b strings.Builder
	for _, l := range s.Lines {
		b.WriteString(l.Text + "\n")
		for _, a := range l.Answer {
			b.WriteString("> " + a + "\n")
		}
	}
	return txtar.Format(&txtar.Archive{Comment: []byte(b.String()), Files: s.archive.Files})
}
