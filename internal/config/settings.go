package config

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Settings are what can be said by a flag, in the environment, in a jail's file
// and in config.yaml, by the same names everywhere: the key soak, the flag
// --soak and the variable JAILUP_SOAK are one setting. A field that is nil is
// not set there; Resolve puts the layers together.
//
// The tags: yaml is the name; only "global" keeps a setting out of a jail's
// file, for it must be the same for all of them; oneof lists the values it may
// have; abs says that it is a path, which in a file must be absolute; min is the
// least number that makes sense.
type Settings struct {
	Source     *string   `yaml:"source"`                // "apt", "dir:PATH", ...; the source room knows which there are
	AptSources *[]string `yaml:"apt-sources" abs:"yes"` // files instead of the host's own sources
	Keyring    *string   `yaml:"keyring" abs:"yes"`
	Keys       *[]string `yaml:"keys"` // fingerprints of the keys that may sign, of all sources or (URI=FINGERPRINT) of one
	Suite      *string   `yaml:"suite"`
	Version    *string   `yaml:"version"`     // an exact one or constraints on the upstream version
	With       *[]string `yaml:"with"`        // modules
	DropModule *[]string `yaml:"drop-module"` // modules that are to go
	Hold       *[]string `yaml:"hold"`        // packages that stay as they are
	Listen     *string   `yaml:"listen"`

	Strategy     *string   `yaml:"strategy" oneof:"restart|handover|auto"`
	Rehearse     *bool     `yaml:"rehearse"`
	Conf         *string   `yaml:"conf" oneof:"keep|new"`
	Soak         *Duration `yaml:"soak"`
	StopTimeout  *Duration `yaml:"stop-timeout"`  // grace of a graceful stop
	StartTimeout *Duration `yaml:"start-timeout"` // until the server must be ready
	LockWait     *Duration `yaml:"lock-wait"`     // 0: do not wait
	Timeout      *Duration `yaml:"timeout"`       // of a run, never of an undo; 0: none

	Snapshots *string          `yaml:"snapshots" abs:"yes"`
	Keep      *int             `yaml:"keep" min:"1"` // snapshots of a jail
	Snapshot  SnapshotSettings `yaml:"snapshot"`

	StateDir *string `yaml:"state-dir" only:"global" abs:"yes"`
	CacheDir *string `yaml:"cache-dir" only:"global" abs:"yes"`
	Output   *string `yaml:"output" only:"global" oneof:"text|json"`
	Quiet    *bool   `yaml:"quiet" only:"global"`
	Verbose  *bool   `yaml:"verbose" only:"global"`
	NoColor  *bool   `yaml:"no-color" only:"global"`
	SkipOK   *bool   `yaml:"skip-ok"`

	AcceptInconclusive *bool `yaml:"accept-inconclusive"` // a server that is neither well nor unwell is taken
}

// SnapshotSettings is the key snapshot of a file. As a flag and in the
// environment it has no name.
type SnapshotSettings struct {
	Exclude *[]string `yaml:"exclude"` // globs of paths as the jail sees them
}

// Defaults returns settings in which every field is set: what holds where
// nothing else is said. Texts and lists without a default are empty.
func Defaults(d Dirs) Settings {
	s := Settings{
		Source:       ptr("apt"),
		Strategy:     ptr("restart"),
		Rehearse:     ptr(true),
		Conf:         ptr("keep"),
		Soak:         duration("10s"),
		StopTimeout:  duration("30s"),
		StartTimeout: duration("60s"),
		Snapshots:    ptr(d.Snapshots),
		Keep:         ptr(3),
		StateDir:     ptr(d.State),
		CacheDir:     ptr(d.Cache),
		Output:       ptr("text"),
	}
	zero(reflect.ValueOf(&s).Elem())
	return s
}

// zero sets what is nil in v, a struct, to a zero value.
func zero(v reflect.Value) {
	each(v, func(_ string, f reflect.StructField, v reflect.Value) {
		switch {
		case v.Kind() == reflect.Struct:
			zero(v)
		case v.IsNil():
			v.Set(reflect.New(f.Type.Elem()))
		}
	})
}

// Resolve puts layers together, field by field: the first layer that sets it
// counts. The order is flags, environment, jail's file, config.yaml, Defaults;
// with Defaults as the last, no field of the result is nil. A list is one value:
// that of the first layer, not the sum of all. Nothing is shared with the
// layers.
func Resolve(layers ...Settings) Settings {
	var out Settings
	for _, layer := range layers {
		fill(reflect.ValueOf(&out).Elem(), reflect.ValueOf(layer))
	}
	return out
}

func fill(to, from reflect.Value) {
	for i := range to.NumField() {
		dst, src := to.Field(i), from.Field(i)
		switch {
		case src.Kind() == reflect.Struct:
			fill(dst, src)
		case !dst.IsNil() || src.IsNil():
		case src.Type().Elem().Kind() == reflect.Slice:
			list := append([]string{}, src.Elem().Interface().([]string)...)
			dst.Set(reflect.ValueOf(&list))
		default:
			dst.Set(reflect.New(src.Type().Elem()))
			dst.Elem().Set(src.Elem())
		}
	}
}

// Names returns the names of all settings that a flag or the environment may
// set, sorted.
func Names() []string {
	var names []string
	each(reflect.ValueOf(&Settings{}).Elem(), func(name string, _ reflect.StructField, v reflect.Value) {
		if v.Kind() == reflect.Pointer {
			names = append(names, name)
		}
	})
	slices.Sort(names)
	return names
}

// Set sets the setting called name to what text says, as the flag --NAME=text
// does. Lists are divided by commas. The error has a Hint.
func (s *Settings) Set(name, text string) error {
	var err error
	found := false
	each(reflect.ValueOf(s).Elem(), func(n string, f reflect.StructField, v reflect.Value) {
		if n == name && v.Kind() == reflect.Pointer {
			found = true
			err = setText(f, v, text)
		}
	})
	if !found {
		return &Error{Cause: "there is no setting " + quote(name), Help: didYouMean(name, Names())}
	}
	return err
}

// EnvName returns the variable of a flag: JAILUP_STOP_TIMEOUT of stop-timeout.
func EnvName(flag string) string {
	return "JAILUP_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// FromEnv returns what the environment sets. A variable that is empty sets
// nothing.
func FromEnv(getenv func(string) string) (Settings, error) {
	var s Settings
	for _, name := range Names() {
		text := getenv(EnvName(name))
		if text == "" {
			continue
		}
		if err := s.Set(name, text); err != nil {
			e := asError(err)
			return Settings{}, &Error{Cause: "cannot use " + EnvName(name) + " of the environment: " + e.Cause, Help: e.Help}
		}
	}
	return s, nil
}

// each calls f for the fields of v, a struct, that have a yaml name.
func each(v reflect.Value, f func(name string, field reflect.StructField, value reflect.Value)) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if name := field.Tag.Get("yaml"); name != "" && name != "-" {
			f(name, field, v.Field(i))
		}
	}
}

// setText sets v, a pointer field, to what text says.
func setText(f reflect.StructField, v reflect.Value, text string) error {
	p := reflect.New(f.Type.Elem())
	switch to := p.Interface().(type) {
	case *string:
		*to = text
	case *[]string:
		*to = []string{}
		for part := range strings.SplitSeq(text, ",") {
			if part = strings.TrimSpace(part); part != "" {
				*to = append(*to, part)
			}
		}
	case *bool:
		b, ok := parseBool(text)
		if !ok {
			return &Error{Cause: quote(text) + " is neither yes nor no", Help: "write true or false"}
		}
		*to = b
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &Error{Cause: quote(text) + " is no whole number"}
		}
		*to = n
	case *Duration:
		if err := to.Set(text); err != nil {
			return err
		}
	}
	if err := fits(f, p.Elem()); err != nil {
		return err
	}
	v.Set(p)
	return nil
}

func parseBool(text string) (value, ok bool) {
	switch strings.ToLower(text) {
	case "1", "true", "yes", "on":
		return true, true
	case "0", "false", "no", "off":
		return false, true
	}
	return false, false
}

// fits says what is wrong with the value v of a setting wherever it was set.
func fits(f reflect.StructField, v reflect.Value) error {
	switch v := v.Interface().(type) {
	case string:
		if list := f.Tag.Get("oneof"); list != "" && !slices.Contains(strings.Split(list, "|"), v) {
			return &Error{Cause: quote(v) + " is none of " + strings.ReplaceAll(list, "|", ", "),
				Help: didYouMean(v, strings.Split(list, "|"))}
		}
		if strings.ContainsRune(v, 0) {
			return &Error{Cause: quote(v) + " has a null character in it"}
		}
	case []string:
		for _, s := range v {
			if s == "" || strings.ContainsRune(s, 0) {
				return &Error{Cause: "an entry of the list is empty or has a null character in it"}
			}
		}
	case int:
		if least, err := strconv.Atoi(f.Tag.Get("min")); err == nil && v < least {
			return &Error{Cause: strconv.Itoa(v) + " is less than " + strconv.Itoa(least)}
		}
	}
	return nil
}

func ptr[T any](v T) *T { return &v }

// duration is for constants only, which are right.
func duration(text string) *Duration {
	d, _ := ParseDuration(text)
	return &d
}

func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Cause: err.Error()}
}

// didYouMean names the one of known that is nearest to a mistyped word.
func didYouMean(word string, known []string) string {
	best, nearest := 3, ""
	for _, k := range known {
		if d := distance(strings.ToLower(strings.ReplaceAll(word, "_", "-")), k); d < best && 2*d <= len(k) {
			best, nearest = d, k
		}
	}
	if nearest == "" {
		return "the ones there are: " + strings.Join(known, ", ")
	}
	return "did you mean " + nearest + "?"
}

// distance is Levenshtein's, of words that are cut to a sane length.
func distance(a, b string) int {
	a = a[:min(len(a), 40)]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
