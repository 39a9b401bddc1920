package httpapi

import (
	"strings"

	"github.com/perigee-run/perigee/api"
	"github.com/perigee-run/perigee/deploy"
	"github.com/perigee-run/perigee/image"
	"github.com/perigee-run/perigee/token"
)

func (s *Server) listImages(c *call) ([]api.ImageInfo, error) {
	used, out, shown := s.cfg.ImagesInUse(), []api.ImageInfo{}, s.imagesSeen(c)
	for _, i := range s.cfg.Images.List() {
		if shown != nil && !shown[i.Digest] {
			continue
		}
		out = append(out, api.ImageInfo{Ref: i.Ref, Digest: i.Digest, Size: i.Size, Created: i.Created, LastUsed: i.LastUsed, InUse: used[i.Digest]})
	}
	return out, nil
}

// imagesSeen are the digests that apps run which the caller sees; nil stands for
// all, for who operates the node.
func (s *Server) imagesSeen(c *call) map[string]bool {
	if c.may(token.Want{Class: operates}) == nil {
		return nil
	}
	seen := map[string]bool{}
	for _, a := range s.cfg.Apps.List() {
		if !c.sees(a.Org, a.Name) {
			continue
		}
		for _, m := range s.cfg.Machines.List(a.Name) {
			seen[m.ImageRef.Digest] = true
		}
		for _, r := range s.cfg.Apps.Releases(a.Name) {
			_, digest, _ := strings.Cut(r.Release.Image, "@")
			seen[digest] = true
		}
	}
	return seen
}

func (s *Server) pullImage(c *call, in api.PullRequest, send func(api.Progress)) error {
	if strings.TrimSpace(in.Image) == "" {
		return invalid("image", "no image is named")
	}
	if err := c.mayImages(in.Image); err != nil {
		return err
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
	if err := s.mayImport(c, name); err != nil {
		return err
	}
	img, err := s.cfg.Images.Import(c.r.Context(), c.r.Body, name, func(p image.Progress) { send(deploy.Layer(p)) })
	if err != nil {
		return imageFault(err)
	}
	send(imageDone(deploy.Pinned(img)))
	return nil
}

// mayImport asks for an image of the app. Without one the archive says what it is to
// be called, which may be any app's image.
func (s *Server) mayImport(c *call, app string) error {
	if app == "" {
		if c.may(token.Want{Class: operates}) != nil {
			return token.Forbidden(token.Want{}, "it must name the app whose image this is to be (app)")
		}
		return nil
	}
	if err := c.mayApp(app); err != nil {
		return err
	}
	_, err := s.cfg.Apps.Get(app)
	return err
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
	return api.Errorf(api.CodeNotFound, "image %q is not on the node", api.Clip(digest))
}
