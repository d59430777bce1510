package imageservice

import "time"

// Meter counts what the image service does.
type Meter interface {
	// Metrics returns the counts so far. It is cheap and may be called at any time.
	Metrics() Metrics
}

// Metrics are counts since the start, and what is going on now.
type Metrics struct {
	PullsInFlight   int64            // now
	BlobsInFlight   int64            // downloads, now
	Pulls           int64            // that succeeded
	PullFailures    map[string]int64 // by reason: the names of FailureReasons
	PullSeconds     Histogram        // of pulls that succeeded
	BytesFetched    int64            // from registries, of blobs that arrived and that did not
	BlobsFetched    int64
	BlobsShared     int64 // that a pull found present or being fetched
	LayersUnpacked  int64
	LayersShared    int64 // that a pull found unpacked or being unpacked
	Images          int64 // now, artifacts included
	RootFileSystems int64 // now
}

// Histogram counts durations below bounds, as Prometheus does: Counts[i] is how many took at most Bounds[i].
type Histogram struct {
	Bounds []time.Duration
	Counts []int64
	Count  int64
	Sum    time.Duration
}

// FailureReasons names the reasons of failed pulls, in the order in which they are looked for.
func FailureReasons() []FailureReason {
	return []FailureReason{
		{"signature", ErrSignatureInvalid}, {"no_space", ErrNoSpace}, {"stalled", ErrPullStalled}, {"unauthorized", ErrUnauthorized},
		{"not_found", ErrNotFound}, {"invalid_reference", ErrInvalidReference}, {"wrong_platform", ErrWrongPlatform},
		{"unsupported", ErrUnsupported}, {"corrupt", ErrCorrupt}, {"unavailable", ErrUnavailable},
	}
}

// FailureReason is the name of a sentinel error in metrics. Errors of no sentinel are "canceled" or "other".
type FailureReason struct {
	Name string
	Err  error
}
