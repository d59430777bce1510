package record

import (
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Reason names how a process ended, in the words CRI clients know.
func Reason(e keeper.Exit) (reason, message string) {
	switch {
	case e.Unknown:
		return runtimeservice.ReasonUnknown, "the container's end was not observed"
	case e.OOMKilled:
		return runtimeservice.ReasonOOMKilled, ""
	case e.Code == 0:
		return runtimeservice.ReasonCompleted, ""
	}
	return runtimeservice.ReasonError, ""
}
