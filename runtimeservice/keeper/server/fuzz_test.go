package server

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/gate"
	"github.com/skiff-node/skiff/runtimeservice/keeper/journal"
)

// Whatever a peer sends, the answer is one of the protocol's refusals, or that of an empty keeper.
func FuzzDispatch(f *testing.F) {
	j, err := journal.Open(filepath.Join(f.TempDir(), "journal"))
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{
		cfg: Config{RunDir: f.TempDir(), Log: slog.New(slog.DiscardHandler)}, journal: j, gate: gate.New(),
		table: map[string]*container{}, making: map[string]struct{}{}, sessions: map[*session]struct{}{},
	}
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		var create keeper.Create
		c := &call{on: newSession(nil), body: body}
		if method == keeper.MethodCreate && c.decode(&create) == nil && validID(create.ID) == nil {
			t.Skip("a valid request makes a container")
		}
		_, err := lines{s}.dispatch(t.Context(), method, c)
		switch {
		case err == nil, errors.Is(err, keeper.ErrInvalid), errors.Is(err, keeper.ErrNotFound):
		default:
			t.Errorf("%s %q: %v", method, body, err)
		}
		if left, _ := os.ReadDir(s.cfg.RunDir); len(left) > 0 {
			t.Errorf("%s %q made %v", method, body, left)
		}
	})
}

// Whatever is in a container's directory, its record is refused or names a container by its directory.
func FuzzRecord(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "record.json"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		rec, err := loadRecord(dir)
		if err != nil {
			if !errors.Is(err, errRecord) {
				t.Errorf("%v, want errRecord", err)
			}
			return
		}
		if err := rec.save(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := loadRecord(dir); err != nil {
			t.Errorf("saved, and then %v", err)
		}
	})
}
