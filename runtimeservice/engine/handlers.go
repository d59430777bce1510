package engine

import (
	"maps"
	"slices"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// SetHandlers changes the runtime handlers, for sandboxes and containers that are made from now on. A container keeps
// the runtime that it was created with: the keeper knows it.
func (e *Engine) SetHandlers(handlers map[string]keeper.Runtime) {
	e.core.handlers.Store(&handlers)
}

// handler finds a handler beside the default one.
func (c *core) handler(name string) (keeper.Runtime, bool) {
	r, ok := (*c.handlers.Load())[name]
	return r, ok
}

// handlerNames lists the handlers beside the default one, in order.
func (c *core) handlerNames() []string {
	return slices.Sorted(maps.Keys(*c.handlers.Load()))
}
