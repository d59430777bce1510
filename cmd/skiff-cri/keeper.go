package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// connectKeeper finds the living keeper, or starts one. One that is another build than the binary is upgraded; when that
// is not possible it goes on as it is.
func (c Config) connectKeeper(ctx context.Context, binary string, log *slog.Logger) (*keeper.Client, error) {
	client, err := keeper.Launch(ctx, keeper.LaunchConfig{
		Binary: binary, RunDir: filepath.Join(c.RunDir, "keeper"), LogFile: c.KeeperLog, CgroupParent: c.Cgroup,
	})
	if errors.Is(err, keeper.ErrVersion) {
		return nil, fmt.Errorf("%w: it cannot be upgraded in place; drain the node and end its containers with the skiff-cri that started them (purge)", err)
	}
	if err != nil || !c.KeeperUpgrade {
		return client, err
	}
	stale, err := keeper.Stale(ctx, client, binary)
	if err != nil || !stale {
		return client, ignore(log, "cannot tell which build the keeper is", err)
	}
	upgraded, err := client.Upgrade(ctx, binary)
	if err != nil {
		return client, ignore(log, "the keeper is not upgraded, and goes on as it is", err)
	}
	log.Info("keeper upgraded in place", "build", upgraded.Build, "binary", binary)
	return client, nil
}

// ignore logs an error that is no reason to do without the keeper, and passes on a lost keeper, which is.
func ignore(log *slog.Logger, what string, err error) error {
	if err == nil || errors.Is(err, keeper.ErrLost) {
		return err
	}
	log.Warn(what, "error", err)
	return nil
}
