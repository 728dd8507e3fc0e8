"""`smtp-sink`, the test server that comes with Postfix: fast, keeps nothing, and misbehaves to order.

Its options are those of smtp-sink(1): `-R 2` answers slowly, `-q rcpt` hangs up at a command,
`-f data` answers it with 4xx or with `-r` 5xx, `-p` announces no PIPELINING.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.services import packages, sessions
from tests.services.postfix_hosts import PACKAGES, PRESEED, PROGRAMS
from tests.services.processes import free_port, listens, spawn, wait_until
from tests.services.sessions import Process


@dataclass
class SmtpSink:
    """A sink on `localhost:port`, between `with` and its end; `dump=True` keeps mails for `dumped()`."""

    arguments: tuple[str, ...] = ()
    dump: bool = False
    backlog: int = 1000
    port: int = field(default_factory=free_port)
    folder: Path = field(init=False)
    process: Process | None = field(default=None, init=False)

    def __enter__(self) -> Self:
        packages.install(PROGRAMS, PACKAGES, PRESEED)
        session = sessions.current()
        self.folder = session.subfolder("smtp-sink")
        self.folder.chmod(0o777)  # it gives up root before it writes
        log = self.folder / "console.log"
        self.process = spawn(session, self._command(), log=log, cwd=self.folder)
        wait_until(lambda: listens(self.port), process=self.process, log=log, seconds=60)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.process.kill()

    def dumped(self) -> list[bytes]:
        """Every mail taken so far, one file per transaction, envelope lines (`X-Mail-Args`, ...) first."""
        files = sorted(self.folder.glob("mail.*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes() for file in files]

    def _command(self) -> list[str]:
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        dump = ["-d", f"{self.folder}/mail.%M."] if self.dump else []
        return ["/usr/sbin/smtp-sink", *user, *dump, *self.arguments, f"127.0.0.1:{self.port}", str(self.backlog)]
