package runtimeservice

import (
	"context"
	"time"
)

// Checkpoints freezes running containers to files, and makes containers from them.
type Checkpoints interface {
	// CheckpointContainer writes a running container to an archive, which it makes, and leaves it running. timeout 0 is
	// the runtime's default.
	CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) error
	// CheckpointSandbox writes running containers of a sandbox, all as of the same moment, into an empty directory.
	CheckpointSandbox(ctx context.Context, c SandboxCheckpoint) error
	// RestoreSandbox makes a sandbox and its containers, which continue when they are started. On error nothing is left.
	// Repeated, it finds what it has made, until a container of it is started: then it is an error, ErrState.
	RestoreSandbox(ctx context.Context, r SandboxRestore) (Restored, error)
}

// SandboxCheckpoint says what to write where.
type SandboxCheckpoint struct {
	SandboxID    string
	Path         string // an empty directory
	ContainerIDs []string
}

// SandboxRestore says what to make of a checkpoint.
type SandboxRestore struct {
	Path       string
	Config     SandboxConfig
	Containers []ContainerConfig // all of the checkpoint's, by name
}

// Restored is what RestoreSandbox has made: containers by the names in their metadata.
type Restored struct {
	SandboxID  string
	Containers map[string]string
}
