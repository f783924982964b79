package steps

// Upgrade is the pipeline of `jailup upgrade`, strategy restart. All that can be
// proven is proven before "stop"; what happens between "stop" and "start" costs
// what changed, not what the jail weighs.
//
// On a failure the failing step is undone, then those before it, in reverse. A
// crash goes the same way: before the commit back, after it forward.
func Upgrade(e *Env) Plan {
	return Plan{
		Name: "upgrade",
		Steps: []Step{
			//                  server  does                                   undo
			&preflight{e}, //   up      place, processes, baseline             –
			&resolve{e},   //   up      signed index → target                  –
			&fetch{e},     //   up      download and verify into the cache     –
			&stage{e},     //   up      unpack beside the jail, changeset      remove the stage
			&rehearse{e},  //   up      configuration test on a view           –
			&snapshot{e},  //   up      copy the jail elsewhere                drop it if it is not whole
			&arm{e},       //   up      compare once more; guardian            disarm
			&stop{e},      //   down    graceful, then harder                  start the old server, check it
			&settle{e},    //   down    bring the snapshot up to date          –
			&install{e},   //   down    exchange what changes                  exchange it back
			&start{e},     //   up      start, wait until it is ready          stop
			&seal{e},      //   up      the snapshot gets its name             –
			&verify{e},    //   up      the checks, and again for the soak     –
			// — commit —       one atomic, durable journal write
			&record{e}, //      up      the manifest, what rollback needs
			&prune{e},  //      up      disarm; old stages, snapshots, evidence
		},
		Commit: 13,
	}
}
