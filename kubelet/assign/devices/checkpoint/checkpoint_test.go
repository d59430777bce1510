package checkpoint

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// upstreams is a file as upstream's kubelet 1.37 writes it.
const upstreams = `{"Data":{"PodDeviceEntries":[{"PodUID":"11111111-2222-3333-4444-555555555555","ContainerName":"c","ResourceName":"example.org/gauge",` +
	`"DeviceIDs":{"0":["g0"],"1":["g0","g1"]},"AllocResp":"CggKA0tFWRIBdg=="},{"PodUID":"u2","ContainerName":"d","ResourceName":"example.org/dial",` +
	`"DeviceIDs":{"-1":["x"]},"AllocResp":""}],"RegisteredDevices":{"example.org/dial":[],"example.org/gauge":["g0","g1","g2"]}},"Checksum":3699238382}`

func TestUpstreamsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), FileName)
	if err := os.WriteFile(path, []byte(upstreams), 0o600); err != nil {
		t.Fatal(err)
	}
	entries, registered, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2 || !reflect.DeepEqual(entries[0].DeviceIDs, DevicesPerNUMA{0: {"g0"}, 1: {"g0", "g1"}}) || len(registered["example.org/gauge"]) != 3 {
		t.Errorf("%v %v", entries, registered)
	}
	raw, err := json.Marshal(Content(entries, registered))
	if err != nil || string(raw) != upstreams {
		t.Errorf("%v\n%s", err, raw)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(upstreams, "g1", "g9", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Read(path); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Error(err)
	}
	if entries, registered, err := Read(filepath.Join(t.TempDir(), "none")); err != nil || entries != nil || registered != nil {
		t.Error(err)
	}
}
