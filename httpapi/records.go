package httpapi

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/image"
)

// recordRoutes are for clients that carry out releases themselves, machine by
// machine.
func (s *Server) recordRoutes() []route {
	return []route{
		{rPost, pApp + "/releases/record", changes, "Releases_record", "Write down a release that the caller carries out itself", nil, take(s.recordRelease).with(http.StatusCreated)},
		{rPatch, pApp + "/releases/{version}", changes, "Releases_update", "Say what has become of a release that was written down", nil, take(s.updateRelease)},
		{rPost, pApp + "/image", changes, "Images_resolve", "Bring an image to the node and say which one it is", nil, take(s.resolveImage)},
	}
}

func (s *Server) recordRelease(c *call, in api.RecordReleaseRequest) (api.Release, error) {
	if err := c.mayImages(in.Image); err != nil {
		return api.Release{}, err
	}
	return s.cfg.Deploys.RecordRelease(c.r.Context(), c.path("app_name"), c.who.Name, in)
}

func (s *Server) updateRelease(c *call, in api.UpdateReleaseRequest) (api.Release, error) {
	n, err := releaseVersion(c)
	if err != nil {
		return api.Release{}, err
	}
	return s.cfg.Deploys.UpdateRelease(c.r.Context(), c.path("app_name"), n, in)
}

// releaseVersion is the release of the path.
func releaseVersion(c *call) (int, error) {
	n, err := strconv.Atoi(strings.TrimPrefix(c.path("version"), "v"))
	if err != nil || n < 1 {
		return 0, invalid("version", "%q is not the version of a release", api.Clip(c.path("version"))).WithHint("1, 2, 3 …")
	}
	return n, nil
}

func (s *Server) resolveImage(c *call, in api.ResolveImageRequest) (api.ImageInfo, error) {
	if _, err := s.app(c); err != nil {
		return api.ImageInfo{}, err
	}
	if strings.TrimSpace(in.Image) == "" {
		return api.ImageInfo{}, invalid("image", "no image is named")
	}
	if err := c.mayImages(in.Image); err != nil {
		return api.ImageInfo{}, err
	}
	i, err := s.cfg.Images.Pull(c.r.Context(), in.Image, func(image.Progress) {})
	if err != nil {
		return api.ImageInfo{}, imageFault(err)
	}
	ref := deploy.Pinned(i)
	if tag := api.TagOf(in.Image); tag != "" {
		ref = strings.Replace(ref, "@", ":"+tag+"@", 1)
	}
	return api.ImageInfo{Ref: ref, Digest: i.Digest, Size: i.Size, Created: i.Created, LastUsed: i.LastUsed, InUse: s.cfg.ImagesInUse()[i.Digest]}, nil
}
