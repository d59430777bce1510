package engine

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a pull or an engine leaves a goroutine behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
