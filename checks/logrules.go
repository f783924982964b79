package checks

import (
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// The levels that are counted, by nginx's names, and one for what a server says
// of itself whenever it starts, whether it minds or not: that is compared with
// what it said before.
const (
	levelEmerg = "emerg"
	levelAlert = "alert"
	levelCrit  = "crit"
	levelError = "error"
	levelWarn  = "warn"
	levelStart = "start"
)

// logRules say how the lines of one server's error log read. What matters is
// whether the server itself is ill: what a site's scripts do wrong, and what
// clients can cause at will, is for the sites' own checks.
type logRules struct {
	// line has two groups: the level and the message. What does not fit is the
	// rest of a message of several lines, or was written by something else.
	line *lazyregexp.Regexp
	// levels gives the names of levels, where they are not nginx's.
	levels map[string]string
	// grave are the levels whose lines are complaints.
	grave []string
	// rules change what the level says; the first one that fits counts.
	rules []logRule
	// loose are lines without a level that are complaints all the same; only
	// the text counts.
	loose []logRule
	// start is what the server says when it has started.
	start *lazyregexp.Regexp
}

// logRule is what lines of a kind mean.
type logRule struct {
	level string             // "" is any, by nginx's names
	begin string             // how the message begins
	match *lazyregexp.Regexp // what is found in it; nil is anything
	as    string             // the level that it is taken for; "" is not taken note of
}

func (r logRule) fits(level, message string) bool {
	return (r.level == "" || r.level == level) && strings.HasPrefix(message, r.begin) &&
		(r.match == nil || r.match.MatchString(message))
}

// read tells the level of a line and its message; false if it says nothing.
func (l *logRules) read(line string) (level, message string, ok bool) {
	m := l.line.FindStringSubmatch(line)
	if m == nil {
		for _, r := range l.loose {
			if r.fits("", line) {
				return r.as, line, true
			}
		}
		return "", "", false
	}
	level, message = m[1], m[2]
	if name, ok := l.levels[level]; ok {
		level = name
	}
	for _, r := range l.rules {
		if r.fits(level, message) {
			return r.as, message, r.as != ""
		}
	}
	return level, message, true
}

// isGrave tells whether lines of a level are complaints of the server.
func (l *logRules) isGrave(level string) bool { return slices.Contains(l.grave, level) }

// rulesOf are the rules of a format.
func rulesOf(f LogFormat) *logRules {
	rules := nginxRules
	switch f {
	case LogApache:
		rules = apacheRules
	case LogFPM:
		rules = fpmRules
	}
	return &rules
}

var nginxRules = logRules{
	// "2024/05/06 07:08:09 [level] pid#tid: *connection message"
	line:  lazyregexp.New(`^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[([a-z]+)\] \d+#\d+: (?:\*\d+ )?(.*)$`),
	grave: []string{levelEmerg, levelAlert, levelCrit},
	rules: []logRule{
		// Clients cause these at will.
		{level: levelCrit, match: lazyregexp.New(`^SSL_(do_handshake|read|write|shutdown)\(\) failed.*client: `)},
		// Whom it passes requests to is away: that is for the sites to tell, and
		// how it is while PHP-FPM is exchanged. By TCP it is a mere error.
		{level: levelCrit, match: lazyregexp.New(`^connect\(\) to unix:.* failed \(\d+: [^)]*\) while connecting to upstream`), as: levelError},
		// A second start that finds the address taken, somebody's watchdog or ours:
		// who holds the address is for the port to tell, whether our start went well
		// for its exit status.
		{level: levelEmerg, match: lazyregexp.New(`^(bind\(\) to .* failed \(98: |still could not bind\(\))`), as: levelError},
		// A full disk: the request is answered all the same, and no other version
		// would find more room.
		{level: levelAlert, match: lazyregexp.New(`^write\(\) to .* (failed \(28: [^)]*\)|was incomplete: \d+ of \d+) while logging request`), as: levelError},
		// A worker that ends with connections open.
		{level: levelAlert, begin: "open socket #"},
		{level: levelAlert, match: lazyregexp.New(`^aborting$`)},
	},
}

// phpStartup is what PHP says of an extension that it cannot load, wherever it
// is written to. It goes on without it.
var phpStartup = lazyregexp.New(`^(PHP message: )?(PHP Warning: +)?` +
	`(PHP Startup: +(Unable to load dynamic library|\S+: Unable to initialize module)|Failed loading )`)

// apacheStops are codes of Apache that end a start: it cannot read its
// configuration, open its logs, or listen.
const apacheStops = `^(\(\d+\)[^:]+: )?AH000(13|14|15|16|17|18|19|20|72|73|78): `

var apacheRules = logRules{
	// "[Mon Nov 23 16:00:00.123456 2026] [module:level] [pid 1:tid 2] message",
	// without the module before 2.4, and with "(errno)text: " before the code.
	line: lazyregexp.New(`^\[[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d [\d:.]+ \d{4}\] \[(?:[a-z0-9_]*:)?([a-z0-9]+)\] ` +
		`(?:\[pid \d+(?::tid \d+)?\] )?(.*)$`),
	grave: []string{levelEmerg, levelAlert, levelCrit},
	rules: []logRule{
		// A child that dies of a signal is told as a mere notice.
		{match: lazyregexp.New(`^AH0005[12]: child pid \d+ exit signal `), as: levelAlert},
		{match: lazyregexp.New(`^AH10392: `), as: levelAlert}, // children are killed successively
		{match: phpStartup, as: levelStart},
		{match: lazyregexp.New(apacheStops), as: levelEmerg},
	},
	loose: []logRule{
		{match: phpStartup, as: levelStart},
		{match: lazyregexp.New(apacheStops), as: levelEmerg},
		{match: lazyregexp.New(`^\S+ must be installed for pthread_(exit|cancel) to work$`), as: levelAlert},
		{match: lazyregexp.New(`^[^ ]+: (symbol lookup error|error while loading shared libraries): `), as: levelAlert},
	},
	start: lazyregexp.New(`^AH\d+: .* -- resuming normal operations$`),
}

var fpmRules = logRules{
	// "[23-Nov-2026 16:00:00] LEVEL: message"; at its most talkative with
	// fractions of the second and "pid 1, function(), line 2: ".
	line: lazyregexp.New(`^\[\d\d-[A-Z][a-z]{2}-\d{4} [\d:.]+\] ([A-Z]+): (?:pid \d+, \w+\(\), line \d+: )?(.*)$`),
	levels: map[string]string{
		"ALERT": levelAlert, "ERROR": levelError, "WARNING": levelWarn, "NOTICE": "notice", "DEBUG": "debug",
	},
	grave: []string{levelEmerg, levelAlert},
	rules: []logRule{
		{match: phpStartup, as: levelStart},
		// What scripts say and do: "PHP message: PHP Fatal error: ...",
		// "[pool www] child 7 said into stderr: ...".
		{begin: "PHP message: ", as: "notice"},
		{match: lazyregexp.New(`^\[pool [^\]]*\] child \d+ said into std(err|out): `), as: "notice"},
		// A worker that crashes. That it is ended by a signal is how a stop, a
		// script without end and a worker too many end.
		{match: lazyregexp.New(`^\[pool [^\]]*\] child \d+ exited on signal \d+ \(SIG(ILL|TRAP|ABRT|BUS|FPE|SEGV|SYS)\b`), as: levelAlert},
		// A worker that cannot become one: FPM_EXIT_SOFTWARE, FPM_EXIT_CONFIG.
		{match: lazyregexp.New(`^\[pool [^\]]*\] child \d+ exited with code (70|78) `), as: levelAlert},
		{level: levelWarn, begin: "failed processes threshold", as: levelAlert},
		{level: levelAlert, begin: "oops, unknown child", as: levelWarn},
		// What clients ask for, and what was told to watch scripts.
		{level: levelError, match: lazyregexp.New(`^(Unable to open primary script|Access to the script|Connection disallowed|failed to ptrace)`), as: levelError},
		// All else of this level is FPM's own, and most of it ends the start.
		{level: levelError, match: lazyregexp.New(`FPM initialization failed|unable to bind listening socket|seems to already listen on|failed to post process the configuration`), as: levelEmerg},
		{level: levelError, as: levelAlert},
	},
	start: lazyregexp.New(`^fpm is running, pid \d+$`),
}
