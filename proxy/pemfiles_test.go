package proxy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A note is what a pemFiles of texts said of itself.
type notes []string

func openTexts(t *testing.T, paths ...string) (*pemFiles[string], *notes) {
	t.Helper()
	said := new(notes)
	f, err := openPEM(paths, func(texts [][]byte) (*string, error) {
		all := ""
		for _, text := range texts {
			if len(text) == 0 {
				return nil, errors.New("half written")
			}
			all += string(text) + ";"
		}
		return &all, nil
	}, func(now *string, err error) {
		if err != nil {
			*said = append(*said, err.Error())
		} else {
			*said = append(*said, *now)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, said
}

func (n *notes) want(t *testing.T, when string, want ...string) {
	t.Helper()
	if got := strings.Join(*n, " | "); got != strings.Join(want, " | ") {
		t.Errorf("%s it said %q, want %q", when, got, want)
	}
	*n = nil
}

// Kubernetes mounts a secret as links to files below a link that it swaps.
func TestPEMFilesFollowASwappedLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		publish := func(version, text string) {
			if err := os.Mkdir(filepath.Join(dir, version), 0o700); err != nil {
				t.Fatal(err)
			}
			proxytest.WriteFile(t, filepath.Join(dir, version, "a"), []byte(text))
			proxytest.WriteFile(t, filepath.Join(dir, version, "b"), []byte(text))
			link := filepath.Join(dir, "..new")
			if err := os.Symlink(version, link); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(link, filepath.Join(dir, "..data")); err != nil {
				t.Fatal(err)
			}
		}
		publish("v1", "old")
		for _, name := range []string{"a", "b"} {
			if err := os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		f, said := openTexts(t, filepath.Join(dir, "a"), filepath.Join(dir, "b"))
		publish("v2", "new")
		if got := *f.get(); got != "old;old;" {
			t.Errorf("within the second of the last look: %q, want no look", got)
		}
		time.Sleep(pemPause)
		if got := *f.get(); got != "new;new;" {
			t.Errorf("a second after the last look: %q", got)
		}
		said.want(t, "after the swap", "new;new;")
	})
}

// What does not fit is told once, and used never.
func TestPEMFilesKeepWhatIsGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "a")
		proxytest.WriteFile(t, file, []byte("old"))
		f, said := openTexts(t, file)
		look := func() string {
			t.Helper()
			time.Sleep(pemPause)
			return *f.get()
		}
		wantOld := func(when string) {
			t.Helper()
			for range 3 {
				if got := look(); got != "old;" {
					t.Errorf("%s: %q, want the old one", when, got)
				}
			}
		}
		wantOld("unchanged")
		said.want(t, "unchanged")
		proxytest.WriteFile(t, file, nil)
		wantOld("half written")
		said.want(t, "half written", "half written")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		wantOld("removed")
		said.want(t, "removed", `"`+file+`": no such file or directory`)
		proxytest.WriteFile(t, file, []byte("old"))
		wantOld("back as it was")
		said.want(t, "back as it was", "old;")
		proxytest.WriteFile(t, file, nil)
		wantOld("half written again")
		said.want(t, "half written again", "half written")
		proxytest.WriteFile(t, file, []byte("new"))
		if got := look(); got != "new;" {
			t.Errorf("at last: %q", got)
		}
		said.want(t, "at last", "new;")
	})
}

func TestPEMFilesMustBeGoodAtFirst(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a")
	parse := func([][]byte) (*string, error) { return nil, errors.New("not good") }
	tell := func(*string, error) { t.Error("what an error tells is told again") }
	if _, err := openPEM([]string{file}, parse, tell); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	proxytest.WriteFile(t, file, nil)
	if _, err := openPEM([]string{file}, parse, tell); err == nil || err.Error() != "not good" {
		t.Errorf("with a bad one: %v", err)
	}
}
