package elfdeps

import (
	"context"
	"os/exec"
	"testing"

	"github.com/jailup/jailup/internal/lab"
)

// BenchmarkClosure finds what up to twenty programs of this machine need: with one
// Resolver that remembers, as jailup does; with a new one for each, which
// remembers nothing; and with ldd file by file, as the tutorials do.
func BenchmarkClosure(b *testing.B) {
	lab.Need(b, "ldd")
	progs := hostPrograms(b, 20)
	progs = progs[:min(20, len(progs))]
	b.Run("jailup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := New(osFS{"/"}).Closure(context.Background(), progs); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("jailup-each-alone", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, p := range progs {
				if _, err := New(osFS{"/"}).Closure(context.Background(), []string{p}); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("ldd-file-by-file", func(b *testing.B) {
		for b.Loop() {
			for _, p := range progs {
				if out, err := exec.Command("ldd", p).CombinedOutput(); err != nil {
					b.Fatalf("%s: %s", p, out)
				}
			}
		}
	})
}
