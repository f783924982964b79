package checks

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
)

// processCheck sees whether the master lives, in the jail, with workers that
// are not root and that do not die.
type processCheck struct {
	target Target

	mu       sync.Mutex
	master   string
	workers  map[string]bool // of the last look
	surplus  int             // workers that came before others went: a reload
	missing  int             // workers that went before others came: crashes
	respawns int             // times that workers had to be replaced
}

// infancy is how long a worker may take to become one, on a busy machine.
const infancy = time.Second

func (c *processCheck) Name() string { return c.target.name(KindProcess) }

func (c *processCheck) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget("")
}

func (c *processCheck) end() {}

func (c *processCheck) forget(master string) {
	c.master, c.workers = master, nil
	c.surplus, c.missing, c.respawns = 0, 0, 0
}

func (c *processCheck) Run(ctx context.Context) Observation {
	o := Observation{Kind: KindProcess, Values: map[string]string{}}
	found, err := c.target.Server(ctx)
	if err != nil {
		o.Pending = true
		o.Detail = "cannot find the server's processes: " + event.Clean(err.Error(), 300)
		return o
	}
	master, ok := readProc(found.Master)
	if found.Master <= 0 || !ok {
		o.Absent, o.Pending = true, true
		o.Detail = "no process of the server runs"
		if n := len(found.All); n > 0 && found.Master <= 0 {
			o.Detail = fmt.Sprintf("the master is gone, %d of its processes are left", n)
		}
		return o
	}
	o.Identity = master.key()
	if !c.target.MasterOutside {
		o.Values["root"] = c.root(master)
	}
	all, active := c.members(found)
	uids := map[string]bool{}
	settled := true
	for _, p := range all {
		uid, ok := effectiveUID(p.pid)
		if ok {
			uids[uid] = true
		}
		r := c.root(p)
		if uid == "0" && !c.target.Workers.MayBeRoot || r == "other" {
			// A child has its master's user and root before it has its own.
			young := time.Since(p.began()) < infancy
			o.Pending = young && settled
			settled = settled && young
		}
		if r == "other" || o.Values["worker_root"] == "" {
			o.Values["worker_root"] = r
		}
	}
	o.Values["worker_uids"] = joined(uids)
	o.Values["workers"] = "some"
	if c.target.Workers.MayBeRoot {
		o.Values["may_be_root"] = "yes"
	}
	if c.target.Workers.Varied {
		o.Values["varied"] = "yes"
	}
	o.OK = true
	o.Detail = fmt.Sprintf("process %d with %d %s", master.pid, len(active), plural(len(active), "worker"))
	switch w := c.target.Workers; {
	case len(active) > 0 || w.None:
	case w.Few:
		o.Values["workers"] = "none"
	default:
		o.OK, o.Pending = false, true
		o.Values["workers"] = "none"
		o.Detail = fmt.Sprintf("process %d has no workers", master.pid)
	}
	if n := c.churn(master.key(), all, active); n > 1 {
		o.OK, o.Pending, o.Final = false, false, true
		o.Detail = fmt.Sprintf("workers die: %d times process %d had to start new ones", n, master.pid)
	}
	return o
}

// root tells where a process has its root: in the jail or, for a worker, in the
// folder of it that is meant for its kind; "" where that is not known.
func (c *processCheck) root(p proc) string {
	if c.target.RootIno == 0 {
		return ""
	}
	places := []place{{c.target.RootDev, c.target.RootIno}}
	for _, r := range c.target.Workers.Roots {
		if p.title == "" {
			break // the master is in the jail itself
		}
		at, ok := c.folder(r.Path)
		if r.Title == "" || r.Title == p.title {
			// None but this one.
			if !ok {
				return ""
			}
			places = []place{at}
			break
		}
		if ok {
			places = append(places, at)
		}
	}
	here, known := rootAt(p.pid)
	switch {
	case !known:
		return "" // it has just ended, or we may not look
	case slices.Contains(places, here):
		return "jail"
	}
	return "other"
}

// folder finds a folder of the jail, without following a link out of it.
func (c *processCheck) folder(path string) (at place, ok bool) {
	opener, ok := c.target.Files.(interface {
		Stat(path string) (jail.Info, error)
	})
	if !ok {
		return place{}, false
	}
	info, err := opener.Stat(path)
	return place{info.Dev, info.Ino}, err == nil && info.IsDir()
}

// members lists the workers, and those of them that are not about to go.
func (c *processCheck) members(found Processes) (all, active []proc) {
	master := title(found.Master)
	for _, pid := range found.All {
		if pid == found.Master {
			continue
		}
		p, ok := readProc(pid)
		if !ok {
			continue
		}
		text := title(pid)
		w := c.target.Workers
		// A title has the room of the command line and environment that it is
		// written over: of a server started with neither it is cut.
		cut := text != "" && strings.HasPrefix(w.Title, text)
		if !strings.HasPrefix(text, w.Title) && !cut || w.SameTitle && text != master {
			continue
		}
		p.title = text
		all = append(all, p)
		if !strings.Contains(text, "is shutting down") {
			active = append(active, p)
		}
	}
	return all, active
}

// churn counts how often workers were replaced because they died. A reload
// starts the new ones first and ends the old ones then; a crash is the other
// way round, or both at once where no look fell in between. One of the latter
// may still be a reload, so the caller allows one.
func (c *processCheck) churn(master string, all, active []proc) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.target.Workers.Stable {
		return 0
	}
	current := map[string]bool{}
	for _, p := range active {
		current[p.key()] = true
	}
	if c.master != master || c.workers == nil {
		c.forget(master)
		if len(current) > 0 {
			c.workers = current
		}
		return 0
	}
	alive := map[string]bool{}
	for _, p := range all {
		alive[p.key()] = true
	}
	came, went, leaving := 0, 0, 0
	for key := range current {
		if !c.workers[key] {
			came++
		}
	}
	for key := range c.workers {
		switch {
		case !alive[key]:
			went++
		case !current[key]:
			leaving++
		}
	}
	c.workers = current
	c.surplus -= min(c.surplus, leaving)
	expected := min(c.surplus, went)
	c.surplus -= expected
	c.missing += went - expected
	if replaced := min(c.missing, came); replaced > 0 {
		c.missing -= replaced
		came -= replaced
		c.respawns++
	}
	c.surplus += came
	return c.respawns
}

func compareProcess(was, now map[string]string) []string {
	var list []string
	for _, key := range []string{"root", "worker_root"} {
		if was[key] == "jail" && now[key] == "other" {
			list = append(list, "its root is not the jail")
			break
		}
	}
	before, after := words(was["worker_uids"]), words(now["worker_uids"])
	if len(before) == 0 || len(after) == 0 {
		return list
	}
	switch added := without(after, before); {
	case slices.Contains(added, "0") && now["may_be_root"] != "yes":
		list = append(list, "its workers run as root")
	case len(added) > 0 && now["may_be_root"] != "yes" && now["varied"] != "yes":
		list = append(list, fmt.Sprintf("its workers run as uid %s, and ran as %s",
			strings.Join(after, ", "), strings.Join(before, ", ")))
	}
	return list
}

// joined is a set as a value.
func joined(set map[string]bool) string {
	var list []string
	for s := range set {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b string) int {
		x, errX := strconv.Atoi(a)
		y, errY := strconv.Atoi(b)
		if errX == nil && errY == nil {
			return x - y
		}
		return strings.Compare(a, b)
	})
	return strings.Join(list, " ")
}

func plural(n int, word string) string {
	if n == 1 {
		return word
	}
	return word + "s"
}
