package webconf

// Apache is a configuration of httpd, read with all that it includes.
type Apache struct{} // filled in by the commits that follow

// ApacheOptions is what httpd knows before it reads its configuration.
type ApacheOptions struct {
	// Env is the environment: on Debian what ReadEnvVars returns.
	Env map[string]string
	// Defines are the names given with -D.
	Defines []string
	// ServerRoot is the one built in, or given with -d; "" is the folder of
	// the main file.
	ServerRoot string
}

// ReadApache reads the configuration whose main file is main.
func ReadApache(files FS, main string, o ApacheOptions) (*Apache, error) { return &Apache{}, nil }

// Listens returns the addresses of the Listen directives.
func (a *Apache) Listens() []Listen { return nil }

// Servers returns the virtual hosts.
func (a *Apache) Servers() []VHost { return nil }

// ErrorLogs returns the files that errors are written to.
func (a *Apache) ErrorLogs() []string { return nil }

// Modules returns what LoadModule and LoadFile name.
func (a *Apache) Modules() []Module { return nil }

// ChrootDir returns the folder that the children are put into.
func (a *Apache) ChrootDir() string { return "" }

// PIDFile returns the pid file.
func (a *Apache) PIDFile() string { return "" }

// User returns the children's user.
func (a *Apache) User() string { return "" }

// MPM returns "prefork", "worker" or "event".
func (a *Apache) MPM() string { return "" }

// FastCGI returns where requests are handed to FastCGI servers.
func (a *Apache) FastCGI() []FastCGI { return nil }

// Files names every file that was read.
func (a *Apache) Files() []string { return nil }

// Warnings tells what could not be known for certain.
func (a *Apache) Warnings() []string { return nil }

// ReadEnvVars reads /etc/apache2/envvars.
func ReadEnvVars(files FS, path string) (map[string]string, error) { return nil, nil }
