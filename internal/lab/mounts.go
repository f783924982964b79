package lab

import (
	"os"
	"strings"
)

// mountPoints lists where something is mounted in this process's namespace, in
// the order of mounting.
func mountPoints() ([]string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 {
			all = append(all, unescape(f[4]))
		}
	}
	return all, nil
}

// mountsBelow lists the mounts in a folder, not one on the folder itself.
func mountsBelow(dir string) ([]string, error) {
	all, err := mountPoints()
	var below []string
	for _, m := range all {
		if strings.HasPrefix(m, dir+"/") {
			below = append(below, m)
		}
	}
	return below, err
}

// unescape undoes the octal escapes of proc_pid_mountinfo(5).
func unescape(s string) string {
	for _, e := range [][2]string{{`\040`, " "}, {`\011`, "\t"}, {`\012`, "\n"}, {`\134`, `\`}} {
		s = strings.ReplaceAll(s, e[0], e[1])
	}
	return s
}
