package engine

import "github.com/skiff-node/skiff/runtimeservice/handler"

// SetHandlers changes the runtime handlers, for what is made from now on. A container keeps its own, which the keeper knows.
func (e *Engine) SetHandlers(handlers handler.Set) { e.core.handlers.Store(&handlers) }

// handlerOf is the handler of a sandbox.
func (c *core) handlerOf(name string) (handler.Handler, error) { return c.handlers.Load().Find(name) }
