// Package bench holds the benchmarks that span rooms: the built program on a
// real jail, beside what an administrator would type instead, in the same run.
package bench
