//go:build !amd64 && !arm64

package jail

// seccomp does nothing: the numbers of the calls are written down for two
// architectures. The other walls stand.
func seccomp() error { return nil }
