package phpconf

// Warning is one thing that PHP complains about when it starts.
type Warning struct {
	Text  string
	File  string
	Line  int
	Fatal bool
}

// ListenLine finds the listen directive of a pool file.
func ListenLine(file []byte) (pool, value string, line int) { return "", "", 0 }

// SetListen replaces the listen directive of a pool.
func SetListen(conf []byte, pool, value string) ([]byte, bool) { return nil, false }

// Rewrite replaces prefixes of paths.
func Rewrite(conf []byte, pairs [][2]string) []byte { return nil }

// Priority is the place of a module among others.
func Priority(ini []byte) int { return 20 }

// ParseInfo reads the names of directives out of phpinfo's text.
func ParseInfo(text []byte) map[string]bool { return nil }

// ParseModules reads the modules out of php -m.
func ParseModules(text []byte) []string { return nil }

// ParseWarnings reads what PHP complains about.
func ParseWarnings(text []byte) []Warning { return nil }
