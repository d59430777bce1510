package convert

import (
	"strconv"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Image translates an image.
func Image(i imageservice.Image) *cri.Image {
	out := &cri.Image{
		Id: i.ID, RepoTags: i.RepoTags, RepoDigests: i.RepoDigests,
		Size: uint64(max(i.Size, 0)), Pinned: i.Pinned,
		Spec: &cri.ImageSpec{Image: i.ID, Annotations: i.Annotations},
	}
	if i.ArtifactType != "" {
		return out // nobody runs it
	}
	user, _, _ := strings.Cut(i.Config.User, ":")
	if user == "" {
		user = "0"
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		out.Uid = &cri.Int64Value{Value: uid}
	} else {
		out.Username = user
	}
	return out
}

// Auth reads credentials; nil is none.
func Auth(a *cri.AuthConfig) imageservice.Auth {
	return imageservice.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(), ServerAddress: a.GetServerAddress(),
	}
}

// FilesystemUsage translates the usage of one file system.
func FilesystemUsage(f imageservice.FSInfo) *cri.FilesystemUsage {
	return &cri.FilesystemUsage{
		Timestamp:  nanos(f.Used.Time),
		FsId:       &cri.FilesystemIdentifier{Mountpoint: f.Mountpoint},
		UsedBytes:  &cri.UInt64Value{Value: uint64(max(f.Used.Bytes, 0))},
		InodesUsed: &cri.UInt64Value{Value: uint64(max(f.Used.Inodes, 0))},
	}
}
