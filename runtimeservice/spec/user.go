package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"

	"github.com/moby/sys/user"

	"github.com/skiff-node/skiff/runtimeservice"
)

// OpenFile opens a file of the image's root, never one outside of it.
type OpenFile func(path string) (io.ReadCloser, error)

// ResolveUser finds the numeric user of a container: the request's user, else the image's, with the groups that the
// image's /etc/group gives that user unless the policy is strict.
func ResolveUser(s runtimeservice.ContainerSecurity, imageUser string, open OpenFile) (runtimeservice.User, error) {
	out := runtimeservice.User{}
	asked := userString(s, imageUser)
	passwd, err := readAccounts(open, "/etc/passwd")
	if err != nil {
		return out, err
	}
	defer passwd.Close()
	group, err := readAccounts(open, "/etc/group")
	if err != nil {
		return out, err
	}
	defer group.Close()
	found, err := user.GetExecUser(asked, &user.ExecUser{}, passwd, group)
	if err != nil {
		return out, invalid("user %q: %v", asked, err)
	}
	out.UID, out.GID = int64(found.Uid), int64(found.Gid)
	out.Groups = []int64{out.GID}
	if s.GroupsPolicy != runtimeservice.GroupsStrict {
		memberships, err := groupsOf(found, open)
		if err != nil {
			return out, err
		}
		out.Groups = append(out.Groups, memberships...)
	}
	out.Groups = append(out.Groups, s.SupplementalGroups...)
	slices.Sort(out.Groups[1:])
	out.Groups = slices.Compact(out.Groups)
	out.Groups = dropRepeats(out.Groups)
	return out, nil
}

// groupsOf is the groups of a user whatever primary group was asked for: GetExecUser leaves them out when the
// request names a group itself.
func groupsOf(found *user.ExecUser, open OpenFile) ([]int64, error) {
	passwd, err := readAccounts(open, "/etc/passwd")
	if err != nil {
		return nil, err
	}
	defer passwd.Close()
	group, err := readAccounts(open, "/etc/group")
	if err != nil {
		return nil, err
	}
	defer group.Close()
	u, err := user.GetExecUser(strconv.Itoa(found.Uid), &user.ExecUser{}, passwd, group)
	if err != nil {
		return nil, fmt.Errorf("groups of user %d: %w", found.Uid, err)
	}
	var out []int64
	for _, g := range u.Sgids {
		out = append(out, int64(g))
	}
	return out, nil
}

func dropRepeats(in []int64) []int64 {
	var out []int64
	for _, g := range in {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	return out
}

func userString(s runtimeservice.ContainerSecurity, imageUser string) string {
	asked := imageUser
	if s.RunAsUser != nil {
		asked = strconv.FormatInt(*s.RunAsUser, 10)
	} else if s.RunAsUsername != "" {
		asked = s.RunAsUsername
	}
	if s.RunAsGroup != nil {
		asked += ":" + strconv.FormatInt(*s.RunAsGroup, 10)
	}
	return asked
}

// readAccounts treats an image without the file as one whose file is empty.
func readAccounts(open OpenFile, path string) (io.ReadCloser, error) {
	f, err := open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(&io.LimitedReader{}), nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the image's %s: %w", path, err)
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, maxAccounts), f}, nil
}

// maxAccounts bounds what is read of an image's account files, in bytes.
const maxAccounts = 4 << 20
