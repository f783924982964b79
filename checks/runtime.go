package checks

import "context"

type runtimeCheck struct{ target Target }

func newRuntimeCheck(t Target) *runtimeCheck { return &runtimeCheck{target: t} }

func (c *runtimeCheck) Name() string { return c.target.name(KindPHP) }

func (c *runtimeCheck) Run(context.Context) Observation {
	return Observation{Kind: KindPHP, Inconclusive: true}
}
