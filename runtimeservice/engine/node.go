package engine

import (
	"context"
	"net/netip"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/handler"
)

// node implements runtimeservice.Node.
type node struct{ *core }

// Status implements runtimeservice.Node.
func (n *node) Status(ctx context.Context) runtimeservice.Status {
	_, err := n.link.Get()
	st := runtimeservice.Status{
		Runtime: err,
		Network: n.cfg.Network.Status(ctx),
		Info: map[string]any{
			"runDir": n.cfg.RunDir, "cgroupParent": n.cfg.CgroupParent, "cgroupDriver": n.cfg.CgroupDriver, "host": n.host,
		},
	}
	st.SystemdCgroups = n.cfg.CgroupDriver == cgroup.Systemd
	noUsers := n.userNamespaces(ctx)
	st.Features.UserNamespacesHostNetwork = noUsers == nil
	if noUsers != nil {
		st.Info["noUserNamespaces"] = noUsers.Error()
	}
	st.Handlers = n.handlers.Load().Describe(handler.Kernel(noUsers == nil))
	return st
}

// userNamespaces says why no pod can have a user namespace of its own, or nil.
func (c *core) userNamespaces(ctx context.Context) error {
	return c.users.Possible(func() (layers, scratch string, err error) {
		_, files, err := c.cfg.Images.FSInfo(ctx)
		return files.Mountpoint, c.cfg.RunDir, err
	})
}

// SetPodCIDRs implements runtimeservice.Node.
func (n *node) SetPodCIDRs(ctx context.Context, cidrs []netip.Prefix) error {
	return n.cfg.Network.SetPodCIDRs(ctx, cidrs)
}
