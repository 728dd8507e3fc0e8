"""The control plane's values and decisions: who may do what, what a change is, what must hold before it is stored.

Knows no database and no HTTP: `worker.store` fulfils the protocols of `ports`, `worker.api` and the
commands call them.
"""
