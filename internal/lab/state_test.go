package lab

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Two jails may be upgraded by one process, and a test may run beside another:
// nothing is shared by way of a package. A table at package level is fine as
// long as nobody writes in it.
func TestNoPackageLevelState(t *testing.T) {
	t.Parallel()
	files := map[string][]*ast.File{} // by folder
	set := token.NewFileSet()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") || strings.Contains(p, "testdata") {
			return err
		}
		f, err := parser.ParseFile(set, p, nil, 0)
		if err == nil { // what does not parse is the compiler's to tell
			files[filepath.Dir(p)] = append(files[filepath.Dir(p)], f)
		}
		return nil
	})
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, pkg := range files {
		for _, w := range stateOf(pkg) {
			t.Errorf("%s: %s", set.Position(w.at), w.what)
		}
	}
}

func TestNoPackageLevelStateIsFound(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]int{
		`var table = map[string]int{"a": 1}; func f() int { return table["a"] }`: 0,
		`var table = map[string]int{}; func f() { table["a"] = 1 }`:              1,
		`var n int; func f() { n++ }`:                                            1,
		`var n int; func f() { n := 1; n++ }`:                                    0,
		`var n int; func f(n int) { n++ }`:                                       0,
		`var s []int; func f() { s = append(s, 1) }`:                             1,
		`var m sync.Mutex`:                                                       1,
		`var n atomic.Int64`:                                                     1,
		`var v = "x"; const c = 1`:                                               0,
		`var p struct{ a int }; func f() { p.a = 1 }`:                            1,
		`var m = map[int]int{}; func f() { delete(m, 1) }`:                       1,
		`var n int; func f() *int { return &n }`:                                 1,
		`func init() {}`:                                                         1,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x.go", "package x\n"+src, 0)
		require.NoError(t, err, src)
		require.Len(t, stateOf([]*ast.File{f}), want, src)
	}
}

type finding struct {
	at   token.Pos
	what string
}

// stateOf looks at one package, its files together.
func stateOf(files []*ast.File) (found []finding) {
	vars := map[string]bool{}
	declared := map[*ast.Object]bool{} //nolint:staticcheck // tells a local name from one of the package, which is all that is asked here
	for _, f := range files {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				found = append(found, finding{fn.Pos(), "init() runs unseen; call it where it can be read"})
			}
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, spec := range g.Specs {
				v := spec.(*ast.ValueSpec)
				if s, ok := v.Type.(*ast.SelectorExpr); ok {
					if x, ok := s.X.(*ast.Ident); ok && (x.Name == "sync" || x.Name == "atomic") {
						found = append(found, finding{v.Pos(), v.Names[0].Name + " is state of the package"})
					}
				}
				for _, n := range v.Names {
					vars[n.Name] = n.Name != "_"
					declared[n.Obj] = true
				}
			}
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			var targets []ast.Expr
			switch n := n.(type) {
			case *ast.AssignStmt:
				if n.Tok != token.DEFINE {
					targets = n.Lhs
				}
			case *ast.IncDecStmt:
				targets = []ast.Expr{n.X}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					targets = []ast.Expr{n.X}
				}
			case *ast.CallExpr:
				if fn, ok := n.Fun.(*ast.Ident); ok && (fn.Name == "delete" || fn.Name == "clear" || fn.Name == "copy") && len(n.Args) > 0 {
					targets = n.Args[:1]
				}
			}
			for _, e := range targets {
				if id := base(e); id != nil && vars[id.Name] && (id.Obj == nil || declared[id.Obj]) {
					found = append(found, finding{n.Pos(), id.Name + " is a variable of the package, and is written"})
				}
			}
			return true
		})
	}
	return found
}

// base is the variable that an expression reaches into.
func base(e ast.Expr) *ast.Ident {
	switch e := e.(type) {
	case *ast.Ident:
		return e
	case *ast.IndexExpr:
		return base(e.X)
	case *ast.SelectorExpr:
		return base(e.X)
	case *ast.ParenExpr:
		return base(e.X)
	case *ast.StarExpr:
		return base(e.X)
	}
	return nil
}
