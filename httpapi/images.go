package httpapi

import (
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/image"
)

func (s *Server) listImages(*call) ([]api.ImageInfo, error) {
	used, out := s.cfg.ImagesInUse(), []api.ImageInfo{}
	for _, i := range s.cfg.Images.List() {
		out = append(out, api.ImageInfo{Ref: i.Ref, Digest: i.Digest, Size: i.Size, Created: i.Created, LastUsed: i.LastUsed, InUse: used[i.Digest]})
	}
	return out, nil
}

func (s *Server) pullImage(c *call, in api.PullRequest, send func(api.Progress)) error {
	if strings.TrimSpace(in.Image) == "" {
		return invalid("image", "no image is named")
	}
	img, err := s.cfg.Images.Pull(c.r.Context(), in.Image, func(p image.Progress) { send(deploy.Layer(p)) })
	if err != nil {
		return imageFault(err)
	}
	send(imageDone(deploy.Pinned(img)))
	return nil
}

func (s *Server) importImage(c *call, send func(api.Progress)) error {
	name := c.text("app")
	if name != "" {
		if _, err := s.cfg.Apps.Get(name); err != nil {
			return err
		}
	}
	img, err := s.cfg.Images.Import(c.r.Context(), c.r.Body, name, func(p image.Progress) { send(deploy.Layer(p)) })
	if err != nil {
		return imageFault(err)
	}
	send(imageDone(deploy.Pinned(img)))
	return nil
}

// imageFault gives errors of the image store that are in plain words their code.
func imageFault(err error) error {
	if e := api.AsError(err); e.Code != api.CodeInternal {
		return e
	}
	return api.Errorf(api.CodeImage, "%v", err).WithField("image")
}

func (s *Server) deleteImage(c *call) error {
	digest := c.path("digest")
	for _, i := range s.cfg.Images.List() {
		if i.Digest != digest && i.Ref != digest {
			continue
		}
		if s.cfg.ImagesInUse()[i.Digest] {
			return api.Errorf(api.CodeConflict, "image %s is in use, or a rollback needs it", i.Digest)
		}
		return s.cfg.Images.Remove(c.r.Context(), i.Digest)
	}
	return api.Errorf(api.CodeNotFound, "image %q is not on the node", clip(digest))
}
