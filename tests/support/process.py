"""The product as its users run it: the command, in a process of its own, told by its environment."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, Self

PATIENCE_S = 120.0


class Postbote:
    """A running ``postbote`` command; its log lines are kept and can be awaited."""

    def __init__(self, *arguments: str, env: Mapping[str, str]) -> None:
        self._arguments = arguments
        self._env = {
            k: v for k, v in os.environ.items() if not k.startswith(("POSTBOTE_", "FW_EVENT_", "ES_", "ELASTIC_"))
        }
        self._env |= {"POSTBOTE_LOG_FORMAT": "json", "POSTBOTE_LOG_LEVEL": "debug", "POSTBOTE_HTTP_PORT": "0", **env}
        self._changed = threading.Condition()
        self.lines: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "worker.cli", *self._arguments], env=self._env, stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        assert self.process.stderr
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip())
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, event: str, *, count: int = 1, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """Wait for the `count`-th log line of that event; return its fields."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [e for e in self.events() if e.get("event") == event]
                if len(found) >= count:
                    return found[count - 1]
                left = deadline - time.monotonic()
                if left <= 0 or (self.process.poll() is not None and not self._reader.is_alive()):
                    msg = f"no log line {event!r} (exit code {self.process.poll()}):\n" + "\n".join(self.lines[-40:])
                    raise AssertionError(msg)
                self._changed.wait(min(left, 1.0))

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    @property
    def base_url(self) -> str:
        found = self.wait_for("http is listening")
        return f"http://{found['host']}:{found['port']}"

    def terminate(self, timeout: float = PATIENCE_S) -> int:
        """SIGTERM, and wait for the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """SIGKILL: the process gets no chance to tidy up."""
        self.process.kill()
        self.process.wait()


def run_postbote(
    *arguments: str, env: Mapping[str, str] | None = None, stdin: str | None = None, timeout: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("POSTBOTE_", "FW_EVENT_", "ES_", "ELASTIC_"))}
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        env={**clean, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
