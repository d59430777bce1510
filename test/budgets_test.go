package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// The hard size budgets of the style guide (docs/style.md). They bound the tail: the longest file, the
// longest function, the widest receiver. A median says nothing about how hard a tree is to change.
const (
	maxFileLines    = 600
	maxFuncLines    = 80
	maxMethods      = 20
	maxFields       = 20
	maxParams       = 5
	maxNesting      = 3
	maxPackageLines = 2000
)

// exceptions maps "kind path[:name]" to the reason why it may exceed its budget. An entry that is no longer
// needed fails the test, so that the list only ever holds what is true.
var exceptions = map[string]string{
	"params controlplane/apiserver/rules/rest.go:subresource.Update": "the signature of rest.Updater of k8s.io/apiserver",
	"params controlplane/apiserver/rules/scale.go:scaleREST.Update":  "the signature of rest.Updater of k8s.io/apiserver",
	"params controlplane/apiserver/store/store.go:Stores.cached":     "the signature of generic.StorageDecorator of k8s.io/apiserver",
	"params controlplane/apiserver/store/store.go:Stores.raw":        "the signature of generic.StorageDecorator of k8s.io/apiserver",
	"params cri/stream/stream.go:runtime.Attach":                     "the interface of k8s.io/cri-streaming",
	"params cri/stream/stream.go:runtime.Exec":                       "the interface of k8s.io/cri-streaming",
}

// checker walks the tree once and collects each excess.
type checker struct {
	fset     *token.FileSet
	methods  map[string]int
	packages map[string]int
	found    map[string]string
}

func TestBudgets(t *testing.T) {
	c := &checker{fset: token.NewFileSet(), methods: map[string]int{}, packages: map[string]int{}, found: map[string]string{}}
	eachGoFile(t, func(path string) { c.file(t, path) })
	for recv, n := range c.methods {
		c.limit("methods "+recv, n, maxMethods)
	}
	for dir, n := range c.packages {
		c.limit("package "+dir, n, maxPackageLines)
	}
	var keys []string
	for k := range c.found {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	for _, k := range keys {
		if _, ok := exceptions[k]; !ok {
			t.Errorf("over budget: %s: %s", k, c.found[k])
		}
	}
	for k, reason := range exceptions {
		if _, ok := c.found[k]; !ok {
			t.Errorf("exception %q (%s) is no longer needed: delete it", k, reason)
		}
	}
}

func (c *checker) limit(key string, n, most int) {
	if n > most {
		c.found[key] = fmt.Sprintf("%d, budget %d", n, most)
	}
}

func (c *checker) file(t *testing.T, path string) {
	src, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := parser.ParseFile(c.fset, path, src, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	if ast.IsGenerated(f) {
		return
	}
	lines := c.fset.File(f.Pos()).LineCount()
	if !strings.HasSuffix(path, "_test.go") {
		c.limit("file "+path, lines, maxFileLines)
		c.packages[filepath.Dir(path)] += lines
	}
	test := strings.HasSuffix(path, "_test.go")
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			c.function(path, d, test)
		case *ast.GenDecl:
			c.structs(path, d)
		}
	}
}

func (c *checker) function(path string, d *ast.FuncDecl, test bool) {
	name := d.Name.Name
	if d.Recv != nil && len(d.Recv.List) == 1 {
		recv := receiver(d.Recv.List[0].Type)
		name = recv + "." + name
		if !test {
			c.methods[filepath.Dir(path)+":"+recv]++
		}
	}
	if d.Body == nil || test {
		return
	}
	key := path + ":" + name
	lines := c.fset.Position(d.Body.End()).Line - c.fset.Position(d.Pos()).Line + 1
	c.limit("func "+key, lines, maxFuncLines)
	c.limit("params "+key, d.Type.Params.NumFields(), maxParams)
	c.limit("nesting "+key, nesting(d.Body), maxNesting)
}

func (c *checker) structs(path string, d *ast.GenDecl) {
	for _, s := range d.Specs {
		ts, ok := s.(*ast.TypeSpec)
		if !ok {
			continue
		}
		if st, ok := ts.Type.(*ast.StructType); ok {
			c.limit("fields "+path+":"+ts.Name.Name, st.Fields.NumFields(), maxFields)
		}
	}
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return "?"
}

// nesting is the deepest chain of if, for, switch and select inside a body. A case adds no level, an
// else-if chain counts once, and a function literal starts again at zero.
func nesting(n ast.Node) int {
	deepest := 0
	var walk func(ast.Node, int)
	walk = func(n ast.Node, depth int) {
		deepest = max(deepest, depth)
		ast.Inspect(n, func(c ast.Node) bool {
			if c == n || c == nil {
				return true
			}
			switch c := c.(type) {
			case *ast.FuncLit:
				walk(c.Body, 0)
				return false
			case *ast.IfStmt:
				d := depth + 1
				if parent, ok := n.(*ast.IfStmt); ok && parent.Else == c {
					d = depth
				}
				walk(c, d)
				return false
			case *ast.ForStmt, *ast.RangeStmt, *ast.SwitchStmt, *ast.TypeSwitchStmt, *ast.SelectStmt:
				walk(c, depth+1)
				return false
			}
			return true
		})
	}
	walk(n, 0)
	return deepest
}

// eachGoFile calls fn with the path, relative to the root of the repository, of each Go file of ours.
func eachGoFile(t *testing.T, fn func(path string)) {
	t.Helper()
	t.Chdir("..")
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "dist") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(path, ".go") {
			fn(path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
