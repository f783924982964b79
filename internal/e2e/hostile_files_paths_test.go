//go:build faultpoints

package e2e

import "crypto/sha256"

func sum(b []byte) [32]byte { return sha256.Sum256(b) }

var hostilePaths = []string{"usr/sbin/nginx", "etc/passwd", "etc"}
