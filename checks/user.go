package checks

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/webconf"
)

// Config is what a user says about checks in a jail's configuration file.
type Config struct {
	// Checks are looked at besides the server's own ones.
	Checks []UserCheck `yaml:"checks,omitempty" json:"checks,omitempty"`
	// Skip names checks that are left out: a name in full ("http
	// 127.0.0.1:80 shop.example"), its begin up to a blank ("http
	// 127.0.0.1:80"), or a kind ("log").
	Skip []string `yaml:"skip,omitempty" json:"skip,omitempty"`
}

// UserCheck is one check of a user. Exactly one of URL, Path and TCP is set.
type UserCheck struct {
	Name string `yaml:"name,omitempty" json:"name,omitempty"`
	// URL is fetched as written; Path from the first address that the server
	// listens on for HTTP, or from Address. TCP ("HOST:PORT") is connected to.
	URL  string `yaml:"url,omitempty" json:"url,omitempty"`
	Path string `yaml:"path,omitempty" json:"path,omitempty"`
	TCP  string `yaml:"tcp,omitempty" json:"tcp,omitempty"`
	// Address ("HOST:PORT") is where URL or Path is asked for instead.
	Address string `yaml:"address,omitempty" json:"address,omitempty"`
	// Host is sent in the request instead of the URL's or the address.
	Host string `yaml:"host,omitempty" json:"host,omitempty"`
	// Status and Body (a regular expression of RE2 syntax) are what the
	// answer must have; without both it is compared with the old server's.
	Status int    `yaml:"status,omitempty" json:"status,omitempty"`
	Body   string `yaml:"body,omitempty" json:"body,omitempty"`
	// MaxTime is the longest time that the whole answer may take.
	MaxTime time.Duration `yaml:"max-time,omitempty" json:"max-time,omitempty"`
}

// ReadConfig reads what a configuration file has under "checks": the list of them,
// or a Config. The zero node says nothing. An error tells the first thing that is
// wrong.
func ReadConfig(node *yaml.Node) (Config, error) {
	var c Config
	if node.IsZero() {
		return c, nil
	}
	text, err := yaml.Marshal(node)
	if err != nil {
		return c, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true) // a misspelt key would be a check that never fails
	if node.Kind == yaml.SequenceNode {
		err = dec.Decode(&c.Checks)
	} else {
		err = dec.Decode(&c)
	}
	if err != nil {
		return c, err
	}
	return c, c.Validate()
}

// Validate tells the first thing that is wrong, with the key's path:
// "checks[1].status: 99 is no HTTP status".
func (c Config) Validate() error {
	names := map[string]int{}
	for i, u := range c.Checks {
		if err := u.validate(); err != nil {
			return fmt.Errorf("checks[%d].%w", i, err)
		}
		if j, ok := names[u.name()]; ok {
			return fmt.Errorf("checks[%d].name: %s is the name of checks[%d], too", i, quoted(u.name()), j)
		}
		names[u.name()] = i
	}
	for i, s := range c.Skip {
		kind, _, _ := strings.Cut(s, " ")
		known := slices.Contains([]Kind{KindProcess, KindPort, KindHTTP, KindTCP, KindLog, KindFastCGI, KindPHP}, Kind(kind))
		if _, own := names[s]; !known && !own {
			return fmt.Errorf("skip[%d]: no check is named %s (process, port, http, tcp, log, fastcgi and php are)", i, quoted(s))
		}
	}
	return nil
}

// skips reports whether a check is left out.
func (c Config) skips(name string) bool {
	for _, s := range c.Skip {
		if name == s || strings.HasPrefix(name, s+" ") {
			return true
		}
	}
	return false
}

func quoted(s string) string { return strconv.QuoteToASCII(event.Clean(s, 100)) }

// name is the check's name in reports.
func (u UserCheck) name() string {
	switch {
	case u.Name != "":
		return event.Clean(u.Name, 100)
	case u.URL != "":
		return "http " + event.Clean(u.URL, 200)
	case u.Path != "":
		return strings.TrimSpace("http " + event.Clean(u.Host, 100) + event.Clean(u.Path, 200))
	}
	return "tcp " + event.Clean(u.TCP, 200)
}

func (u UserCheck) validate() error {
	set := 0
	for _, s := range []string{u.URL, u.Path, u.TCP} {
		if s != "" {
			set++
		}
	}
	if set != 1 {
		return fmt.Errorf("url: exactly one of url, path and tcp is needed, %d are given", set)
	}
	if u.URL != "" {
		p, err := url.Parse(u.URL)
		if err != nil {
			return fmt.Errorf("url: %s is no URL", quoted(u.URL))
		}
		if (p.Scheme != "http" && p.Scheme != "https") || p.Hostname() == "" {
			return fmt.Errorf("url: %s does not begin with http://HOST or https://HOST", quoted(u.URL))
		}
		if p.Port() != "" && !isPort(p.Port()) {
			return fmt.Errorf("url: %s has no port between 1 and 65535", quoted(u.URL))
		}
		if p.User != nil {
			return fmt.Errorf("url: a user name or password is not sent")
		}
	}
	if u.Path != "" {
		if _, err := url.Parse("http://server.invalid" + u.Path); err != nil || u.Path[0] != '/' {
			return fmt.Errorf("path: %s does not begin with /", quoted(u.Path))
		}
	}
	if u.TCP != "" {
		if err := hostPort(u.TCP); err != nil {
			return fmt.Errorf("tcp: %w", err)
		}
		for _, wrong := range []struct {
			key string
			set bool
		}{
			{"address", u.Address != ""},
			{"host", u.Host != ""},
			{"status", u.Status != 0},
			{"body", u.Body != ""},
		} {
			if wrong.set {
				return fmt.Errorf("%s: means nothing beside tcp", wrong.key)
			}
		}
	}
	if u.Address != "" {
		if err := hostPort(u.Address); err != nil {
			return fmt.Errorf("address: %w", err)
		}
	}
	if strings.ContainsAny(u.Host, " \t\r\n/") {
		return fmt.Errorf("host: %s is no host name", quoted(u.Host))
	}
	if u.Status != 0 && (u.Status < 100 || u.Status > 599) {
		return fmt.Errorf("status: %d is no HTTP status", u.Status)
	}
	if _, err := regexp.Compile(u.Body); err != nil {
		return fmt.Errorf("body: %s is no regular expression: %s", quoted(u.Body), event.Clean(err.Error(), 200))
	}
	if u.MaxTime < 0 {
		return fmt.Errorf("max-time: %s is less than nothing", u.MaxTime)
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.Atoi(s)
	return err == nil && n >= 1 && n <= 65535
}

func hostPort(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || host == "" || !isPort(port) {
		return fmt.Errorf("%s is not HOST:PORT", quoted(s))
	}
	return nil
}

// check makes the check; the receiver is valid.
func (u UserCheck) check(t Target) (Check, error) {
	if u.TCP != "" {
		return &tcpCheck{name: u.name(), network: "tcp", address: u.TCP, dial: t.Dial, maxTime: u.MaxTime}, nil
	}
	c := &httpCheck{name: u.name(), network: "tcp", dial: t.Dial, host: u.Host}
	c.expect.status, c.expect.maxTime = u.Status, u.MaxTime
	if u.Body != "" {
		body, err := regexp.Compile(u.Body)
		if err != nil {
			return nil, fmt.Errorf("body: %s is no regular expression", quoted(u.Body))
		}
		c.expect.body = body
	}
	if u.URL != "" {
		p, err := url.Parse(u.URL)
		if err != nil {
			return nil, fmt.Errorf("url: %s is no URL", quoted(u.URL))
		}
		port := p.Port()
		c.tls = p.Scheme == "https"
		if port == "" {
			port = map[bool]string{false: "80", true: "443"}[c.tls]
		}
		c.address = net.JoinHostPort(p.Hostname(), port)
		if c.host == "" {
			c.host = p.Host
		}
		c.path = p.RequestURI()
	} else {
		own, ok := firstHTTP(t.Listens)
		if !ok && u.Address == "" {
			return nil, fmt.Errorf("path: %s: the server listens nowhere for HTTP; set address", quoted(u.Path))
		}
		c.path = u.Path
		if ok {
			site := newHTTPCheck(own, "", t.Dial)
			c.network, c.address, c.tls, c.h2c, c.proxy = site.network, site.address, site.tls, site.h2c, site.proxy
		}
	}
	if u.Address != "" {
		c.network, c.address = "tcp", u.Address
	}
	return c, nil
}

func firstHTTP(list []webconf.Listen) (webconf.Listen, bool) {
	for _, l := range list {
		if l.Context == "http" && l.Network != "udp" {
			return l, true
		}
	}
	return webconf.Listen{}, false
}
