package webconf

// Module is a shared object that a configuration has its server load.
type Module struct {
	// Name is Apache's symbol ("ssl_module"); for nginx, and for Apache's
	// LoadFile, the base of the path without ".so".
	Name string `json:"name"`
	// Path is absolute in the server's view. Only what Apache would not find
	// below its ServerRoot, and was named without a slash, stays a bare file
	// name: the dynamic loader searches for it.
	Path string `json:"path"`
	File string `json:"file"` // where the directive stands
	Line int    `json:"line"`
	// LoadFile tells a plain library (Apache's LoadFile) from a module.
	LoadFile bool `json:"load_file,omitempty"`
}

// FastCGI is one place in which requests are handed to a FastCGI server.
type FastCGI struct {
	// Network is "unix" or "tcp", Address a path in the server's view or
	// "host:port".
	Network string `json:"network"`
	Address string `json:"address"`
	// ScriptFilename is what nginx sends as SCRIPT_FILENAME from there, as
	// written; "" if nothing. Apache makes it up itself.
	ScriptFilename string `json:"script_filename,omitempty"`
	// Root is the document root in force there, "" if it is not known.
	Root string `json:"root,omitempty"`
	File string `json:"file"` // where the directive stands
	Line int    `json:"line"`
}
