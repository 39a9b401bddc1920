package node

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/perigee-run/perigee/cluster"
)

// imageCopies is on how many nodes each image is kept, if there are as many: with
// one, the node that dies takes with it what its machines would be made anew from.
const imageCopies = 2

// keepImages fetches images of which there are too few copies, where this node is
// the one to have the next.
func (n *Node) keepImages(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	had := map[string]bool{}
	for {
		for image, holders := range n.imageHolders() {
			if !had[image] && slices.Contains(n.imageKeepers(image, holders), n.cfg.Name) {
				had[image] = n.keepImage(ctx, image)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (n *Node) keepImage(ctx context.Context, image string) bool {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	err := n.images.Prefetch(ctx, image)
	if err != nil && ctx.Err() == nil {
		n.log.Warn("cannot keep a copy of an image; it is tried again", "image", image, "err", err)
	}
	return err == nil
}

// imageHolders are the images that may be needed again, by reference, and the
// nodes with machines of them: those of all machines and of the apps' releases.
func (n *Node) imageHolders() map[string]map[string]bool {
	out := map[string]map[string]bool{}
	hold := func(image, node string) {
		if out[image] == nil {
			out[image] = map[string]bool{}
		}
		out[image][node] = true
	}
	for _, s := range n.everyMachine() {
		if s.Config != nil && s.Image.Digest != "" {
			hold(pinned(s.Config.Image, s.Image.Digest), s.Node)
		}
	}
	for _, a := range n.apps.List() {
		if r, ok := n.apps.CompleteRelease(a.Name, 0); ok {
			hold(r.Image, "")
		}
	}
	return out
}

// pinned is a reference that means the same image for good.
func pinned(image, digest string) string {
	if strings.Contains(image, "@") {
		return image
	}
	return image + "@" + digest
}

// imageKeepers are the nodes that are to have an image: those with machines of it,
// which have it anyway, and if these are too few, others, which all nodes choose
// alike without asking each other.
func (n *Node) imageKeepers(image string, holders map[string]bool) []string {
	var all []string
	for _, o := range n.cluster.Nodes() {
		if up, _ := n.alive(o.Name); up && o.Has(cluster.RoleHost) && !o.Draining {
			all = append(all, o.Name)
		}
	}
	first := func(node string) int {
		if holders[node] {
			return 0
		}
		return 1
	}
	slices.SortFunc(all, func(a, b string) int {
		return cmp.Or(cmp.Compare(first(a), first(b)), cmp.Compare(draw(image, a), draw(image, b)))
	})
	return all[:min(len(all), imageCopies)]
}

// draw is a lot that a node draws for an image, the same wherever it is drawn.
func draw(image, node string) uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, image, "\n", node)
	return h.Sum64()
}
