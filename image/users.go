package image

import (
	"fmt"
	"strconv"
	"strings"
)

// account is a line of /etc/passwd.
type account struct {
	name     string
	uid, gid uint32
	home     string
}

// LookupUser resolves a USER value ("", "node", "1000", "1000:1000",
// "www-data:adm") against the image's own /etc/passwd and /etc/group, as Docker
// does. groups are the supplementary ones, which only a user without an
// explicit group has. img is a digest or reference. A number need not be listed, nor,
// unlike with Docker, root where the image lists nobody.
func (s *Store) LookupUser(img, spec string) (uid, gid uint32, groups []uint32, home string, err error) {
	found, _ := s.Get(img)
	rec, ok := s.snapshot(found.Digest)
	if !ok {
		return 0, 0, nil, "", fmt.Errorf("cannot look up user %q: image %q is not on this node", spec, img)
	}
	uid, gid, groups, home, err = lookup(string(rec.Passwd), string(rec.Group), spec)
	if err != nil {
		return 0, 0, nil, "", fmt.Errorf("cannot look up user %q in image %s: %w", spec, short(found.Digest), err)
	}
	return uid, gid, groups, home, nil
}

func lookup(passwd, group, spec string) (uid, gid uint32, groups []uint32, home string, err error) {
	user, explicit, hasGroup := strings.Cut(spec, ":")
	a, err := findAccount(passwd, user)
	if err != nil {
		return 0, 0, nil, "", err
	}
	if hasGroup && explicit != "" {
		a.gid, err = findGroup(group, explicit)
		return a.uid, a.gid, nil, a.home, err
	}
	return a.uid, a.gid, memberships(group, a), a.home, nil
}

// findAccount finds a user by name, then by number. Nobody is root.
func findAccount(passwd, user string) (account, error) {
	if user == "" {
		user = "0"
	}
	number, isNumber := parseID(user)
	var byNumber *account
	for line := range strings.Lines(passwd) {
		a, ok := parseAccount(line)
		if ok && a.name == user {
			return a, nil
		}
		if ok && isNumber && a.uid == number && byNumber == nil {
			byNumber = &a
		}
	}
	switch {
	case byNumber != nil:
		return *byNumber, nil
	case isNumber && number == 0, user == "root" && passwd == "": // an image of one program has root all the same
		return account{name: "root", home: "/root"}, nil
	case isNumber:
		return account{uid: number, home: "/"}, nil
	}
	return account{}, fmt.Errorf("its /etc/passwd has no user %q", user)
}

func parseAccount(line string) (account, bool) {
	f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
	if len(f) < 6 || f[0] == "" {
		return account{}, false
	}
	uid, okUID := parseID(f[2])
	gid, okGID := parseID(f[3])
	home := f[5]
	if home == "" {
		home = "/"
	}
	return account{f[0], uid, gid, home}, okUID && okGID
}

// parseID reads a user or group number; the highest one means nobody to Linux.
func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 32)
	return uint32(n), err == nil && n != 1<<32-1
}

func findGroup(group, name string) (uint32, error) {
	for line := range strings.Lines(group) {
		if f := strings.Split(strings.TrimRight(line, "\r\n"), ":"); len(f) >= 3 && f[0] == name {
			if gid, ok := parseID(f[2]); ok {
				return gid, nil
			}
		}
	}
	if gid, ok := parseID(name); ok {
		return gid, nil
	}
	return 0, fmt.Errorf("its /etc/group has no group %q", name)
}

// memberships lists the groups that name a user as member.
func memberships(group string, a account) []uint32 {
	var all []uint32
	for line := range strings.Lines(group) {
		f := strings.Split(strings.TrimRight(line, "\r\n"), ":")
		if len(f) < 4 || a.name == "" {
			continue
		}
		for member := range strings.SplitSeq(f[3], ",") {
			if gid, ok := parseID(f[2]); ok && member == a.name && gid != a.gid {
				all = append(all, gid)
				break
			}
		}
	}
	return all
}
