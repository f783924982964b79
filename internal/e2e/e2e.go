// Package e2e tests the built program from outside: real packages, real jails,
// real servers, real kills.
package e2e
