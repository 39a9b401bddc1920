package node

import (
	"cmp"
	"context"
	"maps"
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
		able, needed := n.ableToKeep(), n.imageHolders()
		for image, holders := range needed {
			if !had[image] && slices.Contains(imageKeepers(able, image, holders), n.cfg.Name) {
				had[image] = n.keepImage(ctx, image)
			}
		}
		maps.DeleteFunc(had, func(image string, _ bool) bool { return needed[image] == nil })
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
func imageKeepers(able []string, image string, holders map[string]bool) []string {
	type keeper struct {
		node  string
		first int
		lot   uint64
	}
	var keepers []keeper // the best, in their order
	seed := fnv1a(fnv1a(fnvBasis, image), "\n")
	for _, node := range able {
		k := keeper{node, 1, fnv1a(seed, node)} // a lot is the same wherever it is drawn
		if holders[node] {
			k.first = 0
		}
		at, _ := slices.BinarySearchFunc(keepers, k, func(a, b keeper) int {
			return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.lot, b.lot))
		})
		if at < imageCopies {
			keepers = slices.Insert(keepers, at, k)
			keepers = keepers[:min(len(keepers), imageCopies)]
		}
	}
	out := make([]string, len(keepers))
	for i, k := range keepers {
		out[i] = k.node
	}
	return out
}

// ableToKeep are the nodes that may be asked to keep an image.
func (n *Node) ableToKeep() (able []string) {
	for _, o := range n.cluster.Nodes() {
		if up, _ := n.alive(o.Name); up && o.Has(cluster.RoleHost) && !o.Draining {
			able = append(able, o.Name)
		}
	}
	return able
}

const fnvBasis uint64 = 14695981039346656037

// fnv1a goes on with a hash: hash/fnv cannot begin in the middle, and the image's
// part is the same for a thousand nodes.
func fnv1a(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}
