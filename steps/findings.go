package steps

import (
	"fmt"

	"github.com/jailup/jailup/checks"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/phpconf"
)

// tellINI tells of mistakes in the settings of PHP: it passes over the rest of such
// a file in silence.
func (e *Env) tellINI(ini *phpconf.Ini) {
	for _, w := range ini.Warnings {
		where := ""
		if w.File != "" {
			where = fmt.Sprintf(" (%s line %d)", event.Clean(w.File, 200), w.Line)
		}
		e.note(event.Warning, "the settings of PHP: "+event.Clean(w.Text, 300)+where, "")
	}
}

// findings tells of what is missing in the jail, or is set so that PHP cannot work
// as it is meant to, with the cure. None of it is a failure.
func (e *Env) findings() {
	in := checks.Inside{Jail: e.Root, HostPath: e.Root.Path()}
	for _, u := range e.servers() {
		conf, err := u.configuration()
		if err != nil {
			continue // the checks say so
		}
		in.FastCGI = append(in.FastCGI, conf.pools()...)
		switch conf := conf.(type) {
		case fpmSite:
			in.FPM = conf.FPM
		case apacheSite:
			in.User = conf.User()
		}
	}
	for _, part := range e.Recipe.Parts() {
		if part.PHP.INI == "" {
			continue
		}
		ini, err := phpconf.ReadIni(rootTree{e.Root}, part.PHP.INI, part.PHP.Scan, part.PHP.Extensions)
		if err != nil {
			e.note(event.Warning, err.Error(), "")
			continue
		}
		e.tellINI(ini)
		if in.Ini == nil {
			in.Ini = ini
		}
	}
	for _, f := range checks.Findings(in) {
		e.note(event.Warning, f.Name+": "+f.Text, f.Hint)
	}
}
