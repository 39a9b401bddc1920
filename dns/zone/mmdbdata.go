package zone

import (
	"encoding/binary"
	"errors"
	"math"
)

// data is a section of values in MaxMind's format. Places in it are offsets;
// pointers count from its start.
type data []byte

// The types of values that we look into.
const (
	kindPointer = 1
	kindString  = 2
	kindDouble  = 3
	kindUint16  = 5
	kindUint32  = 6
	kindMap     = 7
	kindArray   = 11
	kindEnd     = 13
	kindBool    = 14
)

const (
	maxDepth = 32     // of values in values
	maxSteps = 10_000 // that a search steps over
)

var errBroken = errors.New("the database is broken")

// value is the head of one: its type, its size, and where its content begins.
type value struct{ kind, size, at int }

// bytes are the n bytes at the offset.
func (d data) bytes(at, n int) ([]byte, error) {
	if at < 0 || n < 0 || at > len(d) || n > len(d)-at {
		return nil, errBroken
	}
	return d[at : at+n], nil
}

// number of n bytes, the highest first.
func (d data) big(at, n int) (int, error) {
	b, err := d.bytes(at, n)
	v := 0
	for _, x := range b {
		v = v<<8 | int(x)
	}
	return v, err
}

// head reads a value's head. That of a pointer has where it points as size, and
// its end as at.
func (d data) head(at int) (value, error) {
	control, err := d.big(at, 1)
	if err != nil {
		return value{}, err
	}
	at++
	v := value{kind: control >> 5, size: control & 31}
	switch v.kind {
	case kindPointer:
		return d.pointer(control, at)
	case 0:
		more, err := d.big(at, 1)
		if err != nil {
			return value{}, err
		}
		v.kind = 7 + more
		at++
	}
	if n := v.size - 28; n > 0 { // the size is in the next one to three bytes
		more, err := d.big(at, n)
		if err != nil {
			return value{}, err
		}
		v.size = more + [...]int{29, 285, 65821}[n-1]
		at += n
	}
	v.at = at
	return v, nil
}

func (d data) pointer(control, at int) (value, error) {
	n := control >> 3 & 3
	to, err := d.big(at, n+1)
	if n < 3 {
		to += control & 7 << (8 * (n + 1))
		to += [...]int{0, 2048, 526336}[n]
	}
	return value{kindPointer, to, at + n + 1}, err
}

// follow reads the value at the offset, or the one that a pointer there leads to.
func (d data) follow(at int) (value, error) {
	v, err := d.head(at)
	if err != nil || v.kind != kindPointer {
		return v, err
	}
	if v, err = d.head(v.size); err == nil && v.kind == kindPointer {
		err = errBroken // the format allows no second one, which could lead in circles
	}
	return v, err
}

// field returns where a map's field is, -1 if it has none of the name.
func (d data) field(at int, name string) (int, error) {
	m, err := d.follow(at)
	if err != nil {
		return 0, err
	}
	if m.kind != kindMap {
		return -1, nil
	}
	steps := maxSteps
	at = m.at
	for range m.size {
		key, err := d.follow(at)
		if err != nil {
			return 0, err
		}
		text, err := d.bytes(key.at, key.size)
		if err != nil || key.kind != kindString {
			return 0, errBroken
		}
		if at, err = d.skip(at, 0, &steps); err != nil {
			return 0, err
		}
		if string(text) == name {
			return at, nil
		}
		if at, err = d.skip(at, 0, &steps); err != nil {
			return 0, err
		}
	}
	return -1, nil
}

// skip returns where the value at the offset ends.
func (d data) skip(at, depth int, steps *int) (int, error) {
	if *steps--; *steps < 0 || depth > maxDepth {
		return 0, errBroken
	}
	v, err := d.head(at)
	if err != nil {
		return 0, err
	}
	inside := 0
	switch v.kind {
	case kindPointer, kindBool, kindEnd:
		return v.at, nil
	case kindMap:
		inside = 2 * v.size
	case kindArray:
		inside = v.size
	default:
		_, err := d.bytes(v.at, v.size)
		return v.at + v.size, err
	}
	at = v.at
	for range inside {
		if at, err = d.skip(at, depth+1, steps); err != nil {
			return 0, err
		}
	}
	return at, nil
}

// number reads an unsigned one of at most 32 bits.
func (d data) number(at int) (int, error) {
	v, err := d.follow(at)
	if err != nil || v.kind != kindUint16 && v.kind != kindUint32 || v.size > 4 {
		return 0, errBroken
	}
	return d.big(v.at, v.size)
}

func (d data) float(at int) (float64, error) {
	v, err := d.follow(at)
	if err != nil || v.kind != kindDouble || v.size != 8 {
		return 0, errBroken
	}
	b, err := d.bytes(v.at, v.size)
	if err != nil {
		return 0, err
	}
	return math.Float64frombits(binary.BigEndian.Uint64(b)), nil
}
