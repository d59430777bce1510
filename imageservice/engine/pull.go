package engine

import (
	"context"
	"errors"

	"github.com/skiff-node/skiff/imageservice"
)

// Pull is filled in by the next commit.
func (e *Engine) Pull(context.Context, imageservice.PullRequest) (imageservice.Image, error) {
	return imageservice.Image{}, errors.New("pull: not wired yet")
}
