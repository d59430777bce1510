package spec

import "github.com/opencontainers/runtime-spec/specs-go"

// setDevices denies all but the listed devices; libcontainer adds those every container has. A privileged container
// may use all, unless its handler says otherwise.
func setDevices(s *specs.Spec, in Input) error {
	s.Linux.Devices = in.Devices
	if in.Config.Security.Privileged && !in.NoHostDevices {
		s.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}}
		return nil
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Devices {
		major, minor := d.Major, d.Minor
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: &major, Minor: &minor, Access: permissions(in, d.Path),
		})
	}
	s.Linux.Resources = &specs.LinuxResources{Devices: rules}
	return nil
}

func permissions(in Input, path string) string {
	for _, d := range in.Config.Devices {
		if d.ContainerPath == path && d.Permissions != "" {
			return d.Permissions
		}
	}
	return "rwm"
}
