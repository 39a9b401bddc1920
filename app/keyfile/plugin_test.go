package keyfile

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"
)

// pluginName is that of an age plugin which this test's program is when it is called
// age-plugin-pgtest: a process of its own that keeps a key, as those for TPMs and key
// services are.
const pluginName = "pgtest"

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "age-plugin-"+pluginName {
		os.Exit(runPlugin())
	}
	os.Exit(m.Run())
}

func runPlugin() int {
	p, err := plugin.New(pluginName)
	if err != nil {
		return 1
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) {
		r, err := age.ParseX25519Recipient(string(data))
		return wrapper{r}, err
	})
	p.HandleIdentity(func(data []byte) (age.Identity, error) {
		text, pin := strings.CutPrefix(string(data), "pin:")
		id, err := age.ParseX25519Identity(text)
		return unwrapper{p, id, pin}, err
	})
	return p.Main()
}

// wrapper seals in a form of the plugin's own.
type wrapper struct{ r age.Recipient }

func (w wrapper) Wrap(key []byte) ([]*age.Stanza, error) {
	out, err := w.r.Wrap(key)
	for _, s := range out {
		s.Type = pluginName
	}
	return out, err
}

type unwrapper struct {
	p   *plugin.Plugin
	id  age.Identity
	pin bool
}

func (u unwrapper) Unwrap(all []*age.Stanza) ([]byte, error) {
	if u.pin {
		if pin, err := u.p.RequestValue("PIN", true); err != nil || pin != "1234" {
			return nil, errors.New("the PIN is wrong")
		}
	}
	for _, s := range all {
		if s.Type == pluginName {
			s.Type = "X25519"
		}
	}
	return u.id.Unwrap(all)
}

// TestPlugin: the key is wrapped for an age plugin and opened through it; one that asks
// for a PIN gets none.
func TestPlugin(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "age-plugin-"+pluginName)); err != nil {
		t.Fatal(err)
	}
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	save := func(name, data string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(plugin.EncodeIdentity(pluginName, []byte(data))+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mine, asks := save("mine", id.String()), save("asks", "pin:"+id.String())
	path, to := filepath.Join(dir, "secrets.key"), plugin.EncodeRecipient(pluginName, []byte(id.Recipient().String()))
	key, err := Make(path)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := os.ReadFile(path)
	if err := Wrap(path, "", to); err == nil {
		t.Fatal("wrapped by a plugin that is not there")
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file has changed though nothing was wrapped")
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	if err := Wrap(path, "", to); err != nil || !Wrapped(path) {
		t.Fatal(err)
	}
	b, _ := os.ReadFile(path)
	if !bytes.Contains(b, []byte("-> "+pluginName+" ")) || bytes.Contains(b, key) {
		t.Errorf("the file is %q", b)
	}
	if got, err := Read(path, mine); err != nil || !bytes.Equal(got, key) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := Read(path, asks); err == nil || !strings.Contains(err.Error(), "cannot open key file") {
		t.Errorf("one that asks for a PIN: %v", err)
	}
	if err := Unwrap(path, mine); err != nil || Wrapped(path) {
		t.Error(err)
	}
}
