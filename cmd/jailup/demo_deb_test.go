package main

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
	"github.com/jailup/jailup/internal/pkgs"
)

// smallDeb is a package with one member of each kind that packages have.
func smallDeb(t *testing.T) []byte {
	t.Helper()
	control := newTarball()
	require.NoError(t, control.file("./control", 0o644, []byte(
		"Package: small\nversion: 1:2.0-1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\n"+
			"Depends: other (>= 1.0), third\nDescription: a test\n Version: this is no field.\n")))
	require.NoError(t, control.file("./conffiles", 0o644, []byte("/etc/small.conf\n")))
	require.NoError(t, control.file("./postinst", 0o755, []byte("#!/bin/sh\nexit 1\n")))
	data := newTarball()
	at := time.Unix(1700000000, 0)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "./etc/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./etc/small.conf", Mode: 0o640, Gid: 4, Gname: "adm", Size: 3},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/small", Mode: 0o4755, Size: 3},
		{Typeflag: tar.TypeLink, Name: "./usr/bin/again", Linkname: "./usr/bin/small", Mode: 0o4755},
		{Typeflag: tar.TypeSymlink, Name: "./usr/bin/link", Linkname: "../sbin/else", Mode: 0o777},
		{Typeflag: tar.TypeReg, Name: "./usr/share/" + strings.Repeat("long/", 40) + "name", Mode: 0o644, Size: 3},
	} {
		h.ModTime, h.Format = at, tar.FormatGNU
		require.NoError(t, data.WriteHeader(&h))
		if h.Size > 0 {
			_, err := data.Write([]byte("abc"))
			require.NoError(t, err)
		}
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	require.NoError(t, arMember(&out, "debian-binary", []byte("2.0\n")))
	for name, b := range map[string]*tarball{"control.tar.gz": control} {
		z, err := b.end()
		require.NoError(t, err)
		require.NoError(t, arMember(&out, name, z))
	}
	z, err := data.end()
	require.NoError(t, err)
	require.NoError(t, arMember(&out, "data.tar.gz", z))
	return out.Bytes()
}

func openDeb(t *testing.T, data []byte) *pkgs.Deb {
	t.Helper()
	d, err := pkgs.OpenDeb(bytes.NewReader(data), int64(len(data)), pkgs.Limits{})
	require.NoError(t, err)
	return d
}

type member struct {
	pkgs.Entry
	Data string
}

func members(t *testing.T, d *pkgs.Deb) map[string]member {
	t.Helper()
	out := map[string]member{}
	require.NoError(t, d.Files(func(e *pkgs.Entry, c io.Reader) error {
		data, err := io.ReadAll(c)
		out[e.Path] = member{*e, string(data)}
		return err
	}))
	return out
}

func TestRepackDeb(t *testing.T) {
	t.Parallel()
	before := openDeb(t, smallDeb(t))
	var buf bytes.Buffer
	require.NoError(t, repackDeb(&buf, before, "1:2.0-1+demo1",
		debFile{path: "/etc/nginx/conf.d/00-broken.conf", data: "deny all;\n", conf: true},
		debFile{path: "/etc/small.conf", data: "replaced", conf: true},
		debFile{path: "/usr/share/odd", data: "odd"}))
	after := openDeb(t, buf.Bytes())

	want := before.Control()
	want.Version = "1:2.0-1+demo1"
	require.Equal(t, want, after.Control())
	require.Contains(t, string(after.ControlFiles()["control"]), "\n Version: this is no field.\n")
	require.Equal(t, before.ControlFiles()["postinst"], after.ControlFiles()["postinst"])
	require.Equal(t, []string{"/etc/small.conf", "/etc/nginx/conf.d/00-broken.conf"}, after.Conffiles())

	old, all := members(t, before), members(t, after)
	for p, m := range old {
		if p != "/etc/small.conf" {
			require.Equal(t, m, all[p], p)
		}
	}
	require.Equal(t, "replaced", all["/etc/small.conf"].Data)
	require.Equal(t, "deny all;\n", all["/etc/nginx/conf.d/00-broken.conf"].Data)
	require.Equal(t, pkgs.TypeDir, all["/etc/nginx/conf.d"].Type)
	require.EqualValues(t, 0o755, all["/etc/nginx"].Mode)
	require.Len(t, all, len(old)+6, "two files, and the folders that they lie in: two new ones, two that were implied")

	t.Run("what it wrote can be repacked again", func(t *testing.T) {
		var again bytes.Buffer
		require.NoError(t, repackDeb(&again, after, "1:2.0-1+demo2"))
		require.Equal(t, all, members(t, openDeb(t, again.Bytes())))
	})
	t.Run("dpkg-deb reads it", func(t *testing.T) {
		lab.Need(t, "dpkg-deb")
		dpkgReads(t, buf.Bytes(), "1:2.0-1+demo1", "./etc/nginx/conf.d/00-broken.conf")
	})
}

func dpkgReads(t *testing.T, deb []byte, version, file string) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "x.deb")
	require.NoError(t, os.WriteFile(name, deb, 0o600))
	out, err := exec.Command("dpkg-deb", "-f", name, "Version").CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, version+"\n", string(out))
	out, err = exec.Command("dpkg-deb", "-c", name).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), file)
}

// TestRepackRealDeb changes nothing in real packages but what was asked for.
func TestRepackRealDeb(t *testing.T) {
	t.Parallel()
	pair := lab.NginxPair(t)
	debs, err := filepath.Glob(filepath.Join(pair.New, "nginx*.deb"))
	require.NoError(t, err)
	require.NotEmpty(t, debs)
	for _, name := range debs {
		data, err := os.ReadFile(name)
		require.NoError(t, err)
		before := openDeb(t, data)
		version := before.Control().Version + "+demo1"
		var buf bytes.Buffer
		require.NoError(t, repackDeb(&buf, before, version, difference("nginx", "text")))
		after := openDeb(t, buf.Bytes())
		c, err := pkgs.CompareVersions(before.Control().Version, after.Control().Version)
		require.NoError(t, err)
		require.Equal(t, -1, c)
		require.Equal(t, before.Conffiles(), after.Conffiles())
		all := members(t, after)
		for p, m := range members(t, before) {
			require.Equal(t, m, all[p], p)
		}
		require.Equal(t, "text\n", all[difference("nginx", "").path].Data)
		dpkgReads(t, buf.Bytes(), version, "."+difference("nginx", "").path)
	}
}
