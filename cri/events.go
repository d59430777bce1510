package cri

import (
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/runtimeservice"
)

// eventHandlers serves the event stream.
type eventHandlers struct {
	events runtimeservice.Events
	statuses
}

func (h eventHandlers) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return h.events.Watch(s.Context(), func(e runtimeservice.Event) error {
		containers, err := h.of(s.Context(), e.Containers...)
		if err != nil {
			return err
		}
		return s.Send(convert.Event(e, containers))
	})
}
