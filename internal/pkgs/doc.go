// Package pkgs reads package formats: Debian control files and indexes,
// versions, dependencies, compressed streams and .deb archives.
//
// Everything here is data in, values out. Nothing opens a path, talks to a
// network or runs a maintainer script, and every input is taken for hostile:
// sizes are bounded by [Limits] before memory is reserved, and what two readers
// could understand in two ways is refused rather than guessed.
package pkgs
