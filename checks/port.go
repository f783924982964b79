package checks

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/webconf"
)

// portCheck sees who owns the sockets: each address of the configuration must
// be the server's own, and the whole set is compared with the baseline.
type portCheck struct{ target Target }

func (c *portCheck) Name() string { return c.target.name(KindPort) }

// maxReported bounds the names in a detail.
const maxReported = 5

func (c *portCheck) Run(ctx context.Context) Observation {
	o := Observation{Kind: KindPort, Values: map[string]string{}}
	found, err := c.target.Server(ctx)
	if err != nil {
		o.Pending = true
		o.Detail = "cannot find the server's processes: " + event.Clean(err.Error(), 300)
		return o
	}
	if found.Master <= 0 {
		o.Absent, o.Pending = true, true
		o.Detail = "no process of the server runs"
		return o
	}
	sockets, err := listening(found.Master)
	if err != nil {
		return c.blind(o, found, err)
	}
	owned := map[uint64]int{}
	if err := socketInodes(found.Master, maxSockets, owned); err != nil {
		return c.blind(o, found, err)
	}
	for _, pid := range found.All {
		if pid != found.Master && pid > 0 {
			_ = socketInodes(pid, 4096, owned) // a worker may end at any time
		}
	}
	mine := c.mine(sockets, owned)
	var missing, foreign, strangers []string
	for _, l := range webconf.Sockets(c.target.Listens) {
		own, other := find(l, sockets, owned)
		switch {
		case other != 0:
			foreign = append(foreign, word(l))
			strangers = append(strangers, fmt.Sprintf("%s is held by %s", word(l), ownerOf(ctx, other)))
			if !own {
				missing = append(missing, word(l))
			}
		case !own:
			missing = append(missing, word(l))
		}
	}
	o.Values["sockets"] = strings.Join(mine, " ")
	o.Values["missing"] = strings.Join(missing, " ")
	o.Values["foreign"] = strings.Join(foreign, " ")
	o.OK = len(missing) == 0 && len(foreign) == 0
	switch {
	case len(foreign) > 0:
		o.Detail = some(strangers)
	case len(missing) > 0:
		// Servers open all their sockets before they serve: what is still
		// missing beside others does not come.
		o.Pending = len(mine) == 0
		o.Detail = "the server does not listen on " + some(missing)
	case len(mine) == 0:
		o.Detail = "the server listens on nothing"
	default:
		o.Detail = "the server listens on " + some(mine)
	}
	return o
}

// blind is an observation that could not be made, or of a server that has
// gone while it was made.
func (c *portCheck) blind(o Observation, found Processes, err error) Observation {
	if _, alive := readProc(found.Master); !alive {
		o.Absent, o.Pending = true, true
		o.Detail = "no process of the server runs"
		return o
	}
	o.Inconclusive = true
	o.Detail = "cannot see the server's sockets: " + event.Clean(err.Error(), 300)
	return o
}

// mine names the server's sockets, in order. UDP ports that the kernel has
// chosen belong to questions, not to a service.
func (c *portCheck) mine(sockets []socket, owned map[uint64]int) []string {
	low, high := ephemeral()
	names := map[string]bool{}
	for _, s := range sockets {
		if _, ok := owned[s.inode]; !ok {
			continue
		}
		port := int(s.addr.Port())
		if strings.HasPrefix(s.network, "udp") && port >= low && port <= high && !c.derived(s) {
			continue
		}
		names[s.String()] = true
	}
	var list []string
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

func (c *portCheck) derived(s socket) bool {
	return slices.ContainsFunc(c.target.Listens, s.is)
}

// word is a listen's name, as the socket's would be.
func word(l webconf.Listen) string {
	switch l.Network {
	case "unix":
		return socket{network: "unix", path: l.Address}.String()
	case "udp":
		return "udp:" + l.HostPort()
	}
	return l.HostPort()
}

// find tells whether the server has a socket for a listen, and the inode of
// one that somebody else has there, 0 if nobody.
func find(l webconf.Listen, sockets []socket, owned map[uint64]int) (own bool, other uint64) {
	for _, s := range sockets {
		if !s.is(l) {
			continue
		}
		if _, ok := owned[s.inode]; ok {
			own = true
		} else {
			other = s.inode
		}
	}
	if l.ByName && own {
		other = 0 // which of the addresses are meant is not known
	}
	if l.Network == "unix" {
		// The same path means another file in another root.
		other = 0
	}
	return own, other
}

// ownerOf names the process that holds a socket, for a message: it goes
// through the processes of the machine, so only for a socket that is in the way.
func ownerOf(ctx context.Context, inode uint64) string {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return "another process"
	}
	end := time.Now().Add(time.Second)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if ctx.Err() != nil || time.Now().After(end) {
			break
		}
		held := map[uint64]int{}
		if socketInodes(pid, 4096, held) != nil {
			continue
		}
		if _, ok := held[inode]; ok {
			return fmt.Sprintf("process %d (%s)", pid, title(pid))
		}
	}
	return "another process"
}

// some names the first few.
func some(list []string) string {
	if len(list) <= maxReported {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:maxReported], ", "), len(list)-maxReported)
}

func comparePort(was, now Observation) []string {
	var list []string
	before, after := words(was.Values["sockets"]), words(now.Values["sockets"])
	_, known := was.Values["sockets"]
	if !known || now.Absent {
		if was.OK && !now.OK {
			list = append(list, now.Detail)
		}
		return list
	}
	// What the configuration asked for already, though the old server had not
	// yet read it, is not the new one's invention.
	added := without(without(after, before), words(was.Values["missing"]))
	lost := without(before, after)
	foreign := without(words(now.Values["foreign"]), words(was.Values["foreign"]))
	if len(added) > 0 {
		list = append(list, fmt.Sprintf("the new server listens on %s, which the old one did not", some(added)))
	}
	if len(foreign) > 0 && now.Detail != "" {
		list = append(list, now.Detail)
		lost = without(lost, foreign)
	}
	if len(lost) > 0 {
		list = append(list, fmt.Sprintf("the new server does not listen on %s, which the old one did", some(lost)))
	}
	return list
}
