package phpconf

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/conferr"
)

// expandPool puts the pool's name in the place of $pool. A name that holds
// "$pool" itself would never end in FPM.
func expandPool(value, pool string) string { return strings.ReplaceAll(value, "$pool", pool) }

// seconds reads a time of FPM: a number with s, m, h or d; s is the default.
func seconds(value string) (time.Duration, error) {
	digits, unit := value, time.Second
	if n := len(value); n > 0 {
		switch value[n-1] {
		case 's':
			digits = value[:n-1]
		case 'm':
			digits, unit = value[:n-1], time.Minute
		case 'h':
			digits, unit = value[:n-1], time.Hour
		case 'd':
			digits, unit = value[:n-1], 24*time.Hour
		}
	}
	if digits == value && (value == "" || !isDigit(value[len(value)-1])) {
		return 0, fmt.Errorf("%s is no time", conferr.Show(value))
	}
	return time.Duration(number(digits)) * unit, nil
}

// under makes a path absolute as FPM does: by putting the folder before it.
func under(dir, p string) string {
	if strings.HasPrefix(p, "/") {
		return p
	}
	return dir + "/" + p
}

// finish does what FPM does when all is read.
func (r *fpmReader) finish() {
	if !strings.EqualFold(r.fpm.ErrorLog, "syslog") {
		r.fpm.ErrorLog = under(fpmStateDir, r.fpm.ErrorLog)
	}
	for i := range r.fpm.Pools {
		r.fpm.Pools[i].finish(r.raw[i])
	}
}

func (p *Pool) finish(raw rawPool) {
	dir := fpmPrefix
	if raw.hasPrefix {
		dir = under(fpmPrefix, raw.prefix)
	}
	p.Network, p.Address, p.Wildcard = listenAddress(p.Listen)
	if p.Network == "unix" {
		p.Listen = under(dir, p.Listen)
		p.Address = p.Listen
	}
	p.StatusNetwork, p.StatusAddress, _ = listenAddress(p.StatusListen)
	if p.StatusNetwork == "unix" {
		p.StatusAddress = under(dir, p.StatusListen)
	}
	for _, file := range []*string{&p.AccessLog, &p.SlowLog, &p.Chdir} {
		if *file != "" {
			*file = under(dir, *file)
		}
	}
	if rest, ok := strings.CutPrefix(p.Chroot, "$prefix"); ok {
		p.Chroot = dir + rest
	} else if p.Chroot != "" {
		p.Chroot = under(dir, p.Chroot)
	}
	if p.PingPath == "" {
		p.PingResponse = ""
	} else if p.PingResponse == "" {
		p.PingResponse = "pong"
	}
	if p.ListenMode == "" {
		p.ListenMode = "0660"
	}
	for i := range p.PHP {
		if d := &p.PHP[i]; !raw.hasChroot && takesPath(d.Name) && (!strings.EqualFold(d.Name, "error_log") || !strings.EqualFold(d.Value, "syslog")) {
			d.Value = under(dir, d.Value)
		}
	}
}

// takesPath knows the directives of PHP whose values FPM makes absolute.
func takesPath(name string) bool {
	switch strings.ToLower(name) {
	case "error_log", "extension_dir", "mime_magic.magicfile", "sendmail_path", "session.cookie_path", "session_pgsql.sem_file_name",
		"soap.wsdl_cache_dir", "uploadprogress.file.filename_template", "xsl.security_prefs":
		return true
	}
	return false
}

// listenAddress reads "9000", "ADDRESS:9000", "[V6]:9000" or a path: for FPM
// whatever has no colon and is no number is a path.
func listenAddress(value string) (network, address string, wildcard bool) {
	if value == "" {
		return "", "", false
	}
	host, port := "", value
	if i := strings.LastIndexByte(value, ':'); i >= 0 {
		host, port = value[:i], value[i+1:]
		if host == "" {
			return "", "", false
		}
	} else if strings.Trim(value, "0123456789") != "" {
		return "unix", value, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", "", false
	}
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		host = host[1 : len(host)-1]
	}
	switch host {
	case "", "0.0.0.0":
		host, wildcard = "127.0.0.1", true
	case "::":
		host, wildcard = "::1", true
	case "*": // FPM asks the resolver, which answers with the machine itself
		host = "localhost"
	}
	return "tcp", net.JoinHostPort(host, port), wildcard
}
