package lazyregexp

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every expression of the program compiles, used or not.
func TestAllCompile(t *testing.T) {
	t.Parallel()
	n := 0
	err := filepath.WalkDir("../..", func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), p, nil, 0)
		if err != nil {
			return err
		}
		constants := map[string]ast.Expr{"RunPattern": &ast.BasicLit{Kind: token.STRING, Value: "`x`"}} // of package steps, compiled below
		ast.Inspect(file, func(n ast.Node) bool {
			if v, ok := n.(*ast.ValueSpec); ok && len(v.Names) == 1 && len(v.Values) == 1 {
				constants[v.Names[0].Name] = v.Values[0]
			}
			return true
		})
		ast.Inspect(file, func(node ast.Node) bool {
			call, ok := node.(*ast.CallExpr)
			if !ok || len(call.Args) != 1 {
				return true
			}
			if f, ok := call.Fun.(*ast.SelectorExpr); !ok || f.Sel.Name != "New" || name(f.X) != "lazyregexp" {
				return true
			}
			text, ok := text(call.Args[0], constants)
			require.True(t, ok, "%s: an expression that is no text", p)
			_, err := regexp.Compile(text)
			require.NoError(t, err, p)
			n++
			return true
		})
		return nil
	})
	require.NoError(t, err)
	require.Greater(t, n, 30)
}

func name(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

// text is the value of a text, or of several that are added.
func text(e ast.Expr, constants map[string]ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		s, err := strconv.Unquote(e.Value)
		return s, err == nil
	case *ast.BinaryExpr:
		a, ok := text(e.X, constants)
		b, too := text(e.Y, constants)
		return a + b, ok && too
	}
	c := constants[name(e)]
	if c == nil {
		return "", false
	}
	return text(c, constants)
}

func TestIsThatOfRegexp(t *testing.T) {
	t.Parallel()
	r := New(`a(b+)`)
	require.Equal(t, `a(b+)`, r.String())
	require.True(t, r.MatchString("xabb"))
	require.Equal(t, []string{"abb", "bb"}, r.FindStringSubmatch("xabb"))
	require.Equal(t, "x-", r.ReplaceAllString("xabb", "-"))
	require.Panics(t, func() { New(`(`).MatchString("") })
}
