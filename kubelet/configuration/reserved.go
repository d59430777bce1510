package configuration

import (
	"fmt"
	"strconv"
	"strings"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// ReservedPercent is how much of the memory that pods request is kept from pods of worse classes (qosReserved), 0 to 100. Without the
// feature gate QOSReserved it is 0, whatever the field says; upstream does not complain of that either.
func ReservedPercent(c *kubeletconfig.KubeletConfiguration) int64 {
	percent, err := readPercentages(c.QOSReserved)
	if err != nil || !Gates(c.FeatureGates)["QOSReserved"].Enabled {
		return 0
	}
	return percent
}

// readPercentages reads {memory: "50%"}; nothing but memory can be reserved.
func readPercentages(list map[string]string) (memory int64, err error) {
	for resource, text := range list {
		if resource != "memory" {
			return 0, fmt.Errorf("cannot reserve %q resource", resource)
		}
		number, ok := strings.CutSuffix(text, "%")
		if !ok {
			return 0, fmt.Errorf("memory: percentage expected, got %q", text)
		}
		if memory, err = strconv.ParseInt(number, 10, 64); err != nil {
			return 0, fmt.Errorf("memory: invalid number in percentage %q", text)
		}
		if memory < 0 || memory > 100 {
			return 0, fmt.Errorf("memory: percentage %q must be between 0%% and 100%%", text)
		}
	}
	return memory, nil
}
