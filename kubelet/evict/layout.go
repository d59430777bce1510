package evict

import "slices"

// Layout is on which file systems the node's files lie, its own (volumes and logs of pods), images, and writable layers of
// containers (KEP-4191). The zero value is one for all.
type Layout struct {
	// Images: those have a file system of their own, or the layers have.
	Images bool
	// Split: images and layers are apart. Then the layers count as lying with the node's files: upstream knows no third file system.
	Split bool
}

// LayoutOf compares file systems by what identifies them.
func LayoutOf(node, images, layers uint64) Layout {
	return Layout{Images: images != node || images != layers, Split: images != layers}
}

// part of what a pod uses of disk.
type part int

const (
	root part = iota // the writable layers of its containers
	logs
	volumes // those that lie on the node's disk
)

// parts are what lies on the file system that a signal is about. Only that counts for who has to go: nothing is gained from
// a pod that fills another one.
func (l Layout) parts(s Signal) []part {
	ofImages := s == ImageFs || s == ImageInodes
	switch {
	case !l.Images:
		return []part{root, logs, volumes}
	case l.Split && ofImages:
		return nil // no pod has an image
	case l.Split:
		return []part{root, logs, volumes}
	case ofImages:
		return []part{root}
	}
	return []part{logs, volumes}
}

// Reclaim is what is removed before a pod has to go.
type Reclaim struct {
	Containers bool // dead ones that nobody needs
	Images     bool // that nobody uses
}

// reclaim is what lies on the file system that a signal is about; nothing for other signals.
func (l Layout) reclaim(s Signal) Reclaim {
	ofImages := s == ImageFs || s == ImageInodes
	switch {
	case conditionOf(s) != DiskPressure:
		return Reclaim{}
	case !l.Images:
		return Reclaim{Containers: true, Images: true}
	case l.Split:
		return Reclaim{Containers: !ofImages, Images: ofImages}
	}
	return Reclaim{Containers: ofImages, Images: ofImages}
}

// Disk is what is used of a file system.
type Disk struct{ Bytes, Inodes int64 }

func (d *Disk) add(more Disk) {
	d.Bytes += more.Bytes
	d.Inodes += more.Inodes
}

// disk sums those parts of what the pod uses.
func (p Pod) disk(of []part) Disk {
	var sum Disk
	for _, c := range p.Containers {
		if slices.Contains(of, root) {
			sum.add(c.Root)
		}
		if slices.Contains(of, logs) {
			sum.add(c.Logs)
		}
	}
	if slices.Contains(of, volumes) {
		for _, v := range p.Volumes {
			sum.add(v)
		}
	}
	return sum
}
