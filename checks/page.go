package checks

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
)

const (
	// maxPages bounds the pages of PHP that are asked for: each runs a script
	// of a site.
	maxPages  = 50
	phpScript = "/index.php"
	// maxScript is how much of a script is looked at, maxSnippet how much of it
	// tells it again.
	maxScript  = 64 << 10
	maxSnippet = 200
)

// pageCheck asks for a page that PHP makes. It compares as every page does, and
// knows PHP's source when it is sent instead.
type pageCheck struct {
	*httpCheck
	files  Files
	script string // in the jail
}

// pages makes one check for each site and address whose folder holds a page of
// PHP, where the site hands such pages to PHP.
func (t *Target) pages(set *Set) []Check {
	if t.Files == nil {
		return nil
	}
	var made []Check
	flags := t.flags()
	known := map[string]bool{}
	left := 0
	for _, v := range t.VHosts {
		if !v.PHP || v.Root == "" {
			continue
		}
		script := path.Join(v.Root, phpScript)
		f, err := t.Files.OpenFile(script)
		if err != nil {
			continue // no such page, or none that is a file
		}
		f.Close()
		for _, l := range v.Listens {
			name := t.name(KindPHP, "page", v.HostName(), l.String())
			switch {
			case l.Context != "http" || l.Network == "udp" || known[name]:
			case len(made) >= maxPages:
				left++
			default:
				h := newHTTPCheck(flags[l.String()], v.HostName(), t.Dial)
				h.name, h.path = name, phpScript
				made = append(made, &pageCheck{httpCheck: h, files: t.Files, script: script})
			}
			known[name] = true
		}
	}
	if left > 0 {
		set.notes = append(set.notes, fmt.Sprintf("%d pages of PHP are not asked for: only the first %d are", left, maxPages))
	}
	return made
}

func (c *pageCheck) Run(ctx context.Context) Observation {
	o, p := c.look(ctx)
	if o.Values["status"] == "" || p.Response == nil {
		return o
	}
	if bytes.Contains(p.body, []byte("<?php")) {
		// A page may well talk of PHP; that it does so now may not be well.
		o.Values["php_tag"] = "yes"
	}
	if c.isSource(p.body) {
		o.OK = false
		o.Values["source"] = "yes"
		o.Detail = c.where() + " sends " + phpScript + " as it is: PHP does not run it"
	}
	return o
}

// isSource tells whether a page is a script that was not run.
func (c *pageCheck) isSource(body []byte) bool {
	begin := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")), " \t\r\n")
	if bytes.HasPrefix(begin, []byte("<?php")) || bytes.HasPrefix(begin, []byte("<?=")) {
		return true
	}
	f, err := c.files.OpenFile(c.script)
	if err != nil {
		return false
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxScript))
	i := bytes.Index(text, []byte("<?php"))
	if i < 0 {
		i = bytes.Index(text, []byte("<?="))
	}
	if i < 0 {
		return false
	}
	snippet := text[i:min(len(text), i+maxSnippet)]
	return len(snippet) > len("<?php ") && bytes.Contains(body, snippet)
}
