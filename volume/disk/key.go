package disk

import (
	"crypto/rand"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// KeySize is the size of a [Key].
const KeySize = 64

// Key is the secret that a disk's files are encrypted with: fscrypt's master key.
type Key [KeySize]byte

// NewKey makes a key.
func NewKey() (k Key) {
	rand.Read(k[:])
	return k
}

// fscrypt's words; see Documentation/filesystems/fscrypt.rst of the kernel.
const (
	keyIdentifier = 2 // FSCRYPT_KEY_SPEC_TYPE_IDENTIFIER
	contents      = 1 // AES-256-XTS
	fileNames     = 4 // AES-256-CBC-CTS
	padNames      = 3 // to 32 bytes
)

// addKeyArg is struct fscrypt_add_key_arg with the key behind it.
type addKeyArg struct {
	unix.FscryptAddKeyArg
	raw Key
}

// addKey hands the key to the file system at mnt, until that is unmounted. To do
// so again is no error.
func addKey(mnt string, key Key) error {
	_, err := keyID(mnt, key)
	return err
}

func keyID(mnt string, key Key) (id [16]byte, err error) {
	f, err := os.Open(mnt)
	if err != nil {
		return id, err
	}
	defer f.Close()
	arg := addKeyArg{raw: key}
	arg.Key_spec.Type, arg.Raw_size = keyIdentifier, KeySize
	if err := ioctl(f, unix.FS_IOC_ADD_ENCRYPTION_KEY, unsafe.Pointer(&arg)); err != nil {
		return id, fmt.Errorf("cannot give the kernel a volume's key: %w; the kernel needs CONFIG_FS_ENCRYPTION", err)
	}
	copy(id[:], arg.Key_spec.U[:])
	return id, nil
}

// encrypt has everything that will be made in the empty folder dir encrypted.
func encrypt(mnt, dir string, key Key) error {
	id, err := keyID(mnt, key)
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	p := unix.FscryptPolicyV2{Version: 2, Contents_encryption_mode: contents, Filenames_encryption_mode: fileNames, Flags: padNames, Master_key_identifier: id}
	if err := ioctl(f, unix.FS_IOC_SET_ENCRYPTION_POLICY, unsafe.Pointer(&p)); err != nil {
		return fmt.Errorf("cannot encrypt a volume: %w", err)
	}
	return f.Sync()
}

func ioctl(f *os.File, req uint, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(req), uintptr(arg)); e != 0 {
		return e
	}
	return nil
}
