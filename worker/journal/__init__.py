"""The local journal: what was accepted, safe from a kill from the moment on in which the 250 is read.

A worker that is killed before OpenSearch answered leaves its journal behind, and the next worker
to start on the same disk ships it before it takes its first event.

One process writes one file, ``journal-<random>.db``, and the memory ahead of it,
``journal-<random>.ahead``, and holds a lock on ``journal-<random>.lock`` for as long as it lives. The
kernel drops the lock with the process, however that ends, and with a container that is stopped; so a
file whose lock can be taken has no owner, whatever process ids say. Whoever takes the lock owns the file.
"""
