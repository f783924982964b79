package checks

import (
	"strings"

	"github.com/jailup/jailup/internal/webconf"
)

// Apache fills in what the configuration of Apache tells. Where its ChrootDir
// leads below the root that the master has, MasterOutside is the caller's to
// set: the configuration does not say from where it was read.
func (t *Target) Apache(a *webconf.Apache) {
	t.Listens = a.Listens()
	t.VHosts = a.Servers()
	t.ErrorLogs = nil
	for _, log := range a.ErrorLogs() {
		t.ErrorLogs = append(t.ErrorLogs, ErrorLog{log, LogApache})
	}
	// Children come and go with the load, and all at once while it reads its
	// configuration again: that one is gone says nothing, nor that none is
	// there. Whether it serves is for the sites to tell, a crash for the log.
	t.Workers = Workers{SameTitle: true, Few: true, MayBeRoot: isRoot(a.User())}
	if dir := a.ChrootDir(); dir != "" && !t.MasterOutside {
		t.Workers.Roots = []WorkerRoot{{Path: dir}}
	}
}

// isRoot reports whether a user of a configuration is root: by name, or by
// number as Apache writes it.
func isRoot(user string) bool {
	user = strings.TrimPrefix(user, "#")
	return user == "root" || user == "0"
}
