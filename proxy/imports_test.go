package proxy_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/tideover/tideover/"

// A listed package is what go list tells of it. Paths in this module are shortened: "proxy/session".
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string // of the files that are no tests
}

func (p listed) inHouse() (imports []string) {
	for _, path := range p.Imports {
		if !isOutside(path) {
			imports = append(imports, path)
		}
	}
	return imports
}

func isOutside(path string) bool { return strings.HasPrefix(path, "outside:") }

func listPackages(t *testing.T) map[string]listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports", module+"...").Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	packages := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		for i, path := range p.Imports {
			if short, ok := strings.CutPrefix(path, module); ok {
				p.Imports[i] = short
			} else {
				p.Imports[i] = "outside:" + path
			}
		}
		packages[strings.TrimPrefix(p.ImportPath, module)] = p
	}
}

func under(path, folder string) bool { return strings.HasPrefix(path, folder+"/") }

// directionOf tells what is wrong with an import of one package of this module by another, "" for nothing.
func directionOf(importer, imported string) string {
	switch {
	case imported == "proxy/proxytest":
		return "only tests may import it"
	case under(imported, "cmd") && !under(importer, "cmd"):
		return "nothing outside cmd may import cmd"
	case importer == "config" || importer == "client":
		return importer + " is a leaf"
	case imported == "proxy" && !under(importer, "cmd"):
		return "only cmd may import proxy"
	case imported == "proxy/prefetch" && slices.Contains([]string{"proxy", "proxy/engine", "proxy/dedup"}, importer):
		return "" // no more than an instruction
	case importer == "proxy/prefetch", importer == "proxy/engine", importer == "proxy/frame", importer == "proxy/dedup", importer == "proxy/resume":
		return importer + " knows nothing of the rest of the house"
	case importer == "proxy/session" && !slices.Contains([]string{"proxy/frame", "proxy/dedup", "proxy/resume"}, imported):
		return "the core may import only what is as pure as itself"
	}
	return ""
}

func TestImportsRunOneWay(t *testing.T) {
	packages := listPackages(t)
	for _, room := range []string{"config", "proxy", "proxy/session", "proxy/frame", "proxy/engine", "proxy/dedup", "proxy/resume", "proxy/prefetch", "cmd/tideover"} {
		if _, ok := packages[room]; !ok {
			t.Errorf("there is no package %s: the rules below hold for nothing", room)
		}
	}
	for path, p := range packages {
		for _, imported := range p.inHouse() {
			if complaint := directionOf(path, imported); complaint != "" {
				t.Errorf("%s imports %s: %s", path, imported, complaint)
			}
		}
	}
	// A rule that lets everything pass would hold nothing.
	for _, bad := range [][2]string{
		{"config", "proxy"}, {"proxy/session", "proxy"}, {"proxy/session", "proxy/engine"}, {"proxy/session", "config"},
		{"proxy/frame", "proxy/session"}, {"proxy/presence", "proxy"}, {"proxy", "cmd/tideover/demo"}, {"proxy/engine", "proxy/frame"},
		{"proxy/prefetch", "proxy/engine"}, {"proxy/session", "proxy/prefetch"},
	} {
		if directionOf(bad[0], bad[1]) == "" {
			t.Errorf("the rules let %s import %s", bad[0], bad[1])
		}
	}
}

// The core does no I/O, logs nothing, starts no goroutine and reads no clock; nor does what it is made of.
func TestTheCoreIsPure(t *testing.T) {
	packages := listPackages(t)
	for _, path := range []string{"proxy/session", "proxy/frame", "proxy/dedup", "proxy/resume"} {
		p := packages[path]
		for _, imported := range p.Imports {
			imported = strings.TrimPrefix(imported, "outside:")
			for _, banned := range []string{"net", "os", "syscall", "log", "io/fs", "context", "go.uber.org/zap"} {
				if imported == banned || under(imported, banned) {
					t.Errorf("%s imports %s", path, imported)
				}
			}
		}
		for _, name := range p.GoFiles {
			for _, complaint := range impurities(t, filepath.Join(p.Dir, name), nil) {
				t.Errorf("%s %s", path, complaint)
			}
		}
	}
	const impure = "package p\nimport \"time\"\nfunc f() { go f(); _ = time.Now(); time.AfterFunc(0, f) }"
	if found := impurities(t, "impure.go", impure); len(found) != 3 {
		t.Errorf("of a goroutine, a clock and a timer these were found: %q", found)
	}
}

// impurities finds goroutines, clocks and timers in a file, or in source if that is not nil.
func impurities(t *testing.T, file string, source any) (found []string) {
	t.Helper()
	files := token.NewFileSet()
	tree, err := parser.ParseFile(files, file, source, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	clocks := []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}
	ast.Inspect(tree, func(n ast.Node) bool {
		where := func(what string) string {
			at := files.Position(n.Pos())
			return filepath.Base(at.Filename) + ":" + strconv.Itoa(at.Line) + ": " + what
		}
		switch n := n.(type) {
		case *ast.GoStmt:
			found = append(found, where("starts a goroutine"))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
				found = append(found, where("uses time."+n.Sel.Name))
			}
		}
		return true
	})
	return found
}
