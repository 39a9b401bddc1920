package dotenv

import (
	"strings"
	"testing"
)

func TestDotenv(t *testing.T) {
	const file = "\ufeff# a comment\r\nA=1\nexport B = two words # why\n\nC='it is # $HOME \\n'\nD=\"x\\ny \\\"z\\\"\" # q\nE=\nF=\"line 1\nline 2\"\nG=\"\"\"{\n \"a\": 1}\"\"\"\nH=a=b#c"
	got, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"A": "1", "B": "two words", "C": `it is # $HOME \n`, "D": "x\ny \"z\"", "E": "", "F": "line 1\nline 2", "G": "{\n \"a\": 1}", "H": "a=b#c"}
	for name, v := range want {
		if got[name] == nil || *got[name] != v {
			t.Errorf("%s is %q, want %q", name, *got[name], v)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d values, want %d", len(got), len(want))
	}
	for text, want := range map[string]string{"A=1\nsecret": "line 2 is not", "=x": "line 1", "A=1\n\nB='x": "line 3: the value of B begins with", `A="x" y`: "followed by", "a b=c": "line 1"} {
		if _, err := Parse(text); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzDotenv(f *testing.F) {
	for _, s := range []string{"A=1", "A='x\n'", `A="\\"`, "export A=b # c", "\"\"\"=", "A=\"\"\"x\"\"\""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		values, err := Parse(text)
		for name := range values {
			if err == nil && (name == "" || strings.ContainsAny(name, " \n\t")) {
				t.Errorf("%q gives the name %q", text, name)
			}
		}
	})
}
