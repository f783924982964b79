package phpconf

import "strings"

// constantOf is the value of a constant of PHP that configuration files use,
// as it would stand in the file. Varies says that it is not the same in every
// PHP: error_reporting's "all" lost a bit in 8.4.
func constantOf(name string) (value string, ok, varies bool) {
	switch strings.ToLower(name) {
	case "true":
		return "1", true, false
	case "false", "null":
		return "", true, false
	}
	switch name {
	case "E_ERROR":
		value = "1"
	case "E_WARNING":
		value = "2"
	case "E_PARSE":
		value = "4"
	case "E_NOTICE":
		value = "8"
	case "E_CORE_ERROR":
		value = "16"
	case "E_CORE_WARNING":
		value = "32"
	case "E_COMPILE_ERROR":
		value = "64"
	case "E_COMPILE_WARNING":
		value = "128"
	case "E_USER_ERROR":
		value = "256"
	case "E_USER_WARNING":
		value = "512"
	case "E_USER_NOTICE":
		value = "1024"
	case "E_STRICT":
		value = "2048"
	case "E_RECOVERABLE_ERROR":
		value = "4096"
	case "E_DEPRECATED":
		value = "8192"
	case "E_USER_DEPRECATED":
		value = "16384"
	case "E_ALL":
		return "32767", true, true
	default:
		return "", false, false
	}
	return value, true, false
}
