package engine

import (
	"github.com/skiff-node/skiff/runtimeservice/handler"
)

// SetHandlers changes the runtime handlers, for sandboxes and containers that are made from now on. A container keeps
// that which it was made with, which the keeper knows.
func (e *Engine) SetHandlers(handlers handler.Set) {
	e.core.handlers.Store(&handlers)
}

// handlerOf is the handler of a sandbox.
func (c *core) handlerOf(name string) (handler.Handler, error) {
	return c.handlers.Load().Find(name)
}
