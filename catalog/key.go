package catalog

import (
	"fmt"
	"strings"
)

const maxKey = 512 // bytes; NATS has no limit worth naming, memory does

// CheckKey reports why key cannot be one: keys are dot-separated tokens of
// letters, digits, '-', '_', '=' and '/', at most 512 bytes, no token empty.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("cannot use an empty key")
	case len(key) > maxKey:
		return fmt.Errorf("cannot use a key of %d bytes: the most is %d", len(key), maxKey)
	case key[0] == '.' || key[len(key)-1] == '.' || strings.Contains(key, ".."):
		return fmt.Errorf("cannot use key %q: it has an empty token; use a.b.c", key)
	}
	for i := range len(key) {
		if !keyByte(key[i]) {
			return fmt.Errorf("cannot use key %q: byte %q is not allowed; use letters, digits, '-', '_', '=', '/' and dots", key, key[i])
		}
	}
	return nil
}

func keyByte(b byte) bool {
	return 'a' <= b && b <= 'z' || 'A' <= b && b <= 'Z' || '0' <= b && b <= '9' ||
		b == '-' || b == '_' || b == '=' || b == '/' || b == '.'
}
