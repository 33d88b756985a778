"""The command line: speaks HTTP to a server, except `serve`, `demo` and `doctor`.

Promises: one line `error: ...` on stderr and an exit status by kind of failure; `--json`
prints JSON alone on stdout. Knows nothing of torch, the store or the engine.
"""
