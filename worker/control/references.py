"""Passwords by reference: a record says where a worker finds its password on its own host, and not what it is.

``env:NAME`` is an environment variable, ``file:/PATH`` a file's content without one newline at its
end. Only the controller's records have references: whoever may write one may have this process read
what it can read, and send that to a server of their choice. So nothing is read that cannot be a
password, nor Postbote's own settings (see `worker.settings.environment_variable`). No error tells
what was found, only where.
"""

import os
import stat
import time
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from schemas.config_change import is_reference
from schemas.smtp_config import CONTROLLER, Scope
from worker.errors import SecretUnreadable, SettingsError

Environment = Callable[[str], str | None]
"""A variable's value, None where it is not set; raises SettingsError where it may not be read."""

OpenSecret = Callable[[str], str]
"""Opens a stored secret; raises SecretUnreadable or SecretKeyMissing."""

MAX_BYTES = 64 * 1024
# So long a password may be out of date, and its file is left alone.
KEPT_S = 30.0

log = structlog.get_logger(__name__)


def read_reference(reference: str, environment: Environment) -> str:
    """What ``env:NAME`` or ``file:/PATH`` leads to now; raises SecretUnreadable, which names the reference."""
    kind, _, where = reference.partition(":")
    match kind:
        case "env":
            return _checked(reference, _variable(reference, where, environment))
        case "file":
            return _checked(reference, _content(reference, where))
        case _:  # anything else might be the secret itself, so it is not named
            msg = "a reference begins with env: or file:/"
            raise SecretUnreadable(msg)


def open_for(scope: Scope, secret: str, open_secret: OpenSecret) -> str:
    """Open what is stored for a record of `scope`; raises SecretUnreadable for a tenant's reference."""
    if is_reference(secret) and scope != CONTROLLER:
        msg = "only the controller's records may refer to the worker's environment and files"
        raise SecretUnreadable(msg)
    return open_secret(secret)


@dataclass(frozen=True, slots=True, repr=False)
class _Read:
    secret: str
    good_until: float


class Opening:
    """Opens stored secrets: sealed ones by `open_sealed`, references by reading them, at most every `KEPT_S` seconds.

    A reference that was read once and cannot be read any more goes on with what was read last,
    for a file that is being replaced must park no mail; the log says so.
    """

    def __init__(
        self, open_sealed: OpenSecret, environment: Environment, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take how sealed secrets are opened, where variables come from, and a clock in seconds."""
        self._open_sealed = open_sealed
        self._environment = environment
        self._clock = clock
        self._read: dict[str, _Read] = {}

    def __call__(self, secret: str) -> str:
        """The secret in clear; raises SecretUnreadable, and SecretKeyMissing for a sealed one."""
        return self._of_reference(secret) if is_reference(secret) else self._open_sealed(secret)

    def _of_reference(self, reference: str) -> str:
        now = self._clock()
        last = self._read.get(reference)
        if last is not None and now < last.good_until:
            return last.secret
        try:
            secret = read_reference(reference, self._environment)
        except SecretUnreadable as error:
            if last is None:
                raise
            log.warning("a password cannot be read again: the last one is used", reason=str(error))
            secret = last.secret
        self._read[reference] = _Read(secret, now + KEPT_S)
        return secret


def opening(open_sealed: OpenSecret, environment: Environment) -> OpenSecret:
    """How a process opens what is stored: sealed secrets by `open_sealed`, references by reading them."""
    return Opening(open_sealed, environment)


def _variable(reference: str, name: str, environment: Environment) -> str:
    try:
        value = environment(name)
    except SettingsError as error:
        raise _unreadable(reference, str(error)) from None
    if value is None:
        raise _unreadable(reference, "the variable is not set")
    return value


def _content(reference: str, path: str) -> str:
    if not path.startswith("/"):
        raise _unreadable(reference, "the path is not absolute")
    try:
        return _read_file(reference, path).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise _unreadable(reference, error.strerror or "it cannot be read") from None
    except ValueError:  # not UTF-8, or a NUL in the path
        raise _unreadable(reference, "it is no text in UTF-8") from None


def _read_file(reference: str, path: str) -> bytes:
    # Opening a pipe would wait for its writer without O_NONBLOCK.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise _unreadable(reference, "it is no regular file")
        # What /proc shows has no size, and this process's own environment, keys and all, is there.
        if found.st_size == 0:
            raise _unreadable(reference, "it is empty")
        with open(handle, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    finally:
        os.close(handle)
    if len(content) > MAX_BYTES:
        raise _unreadable(reference, f"it has more than {MAX_BYTES // 1024} KiB")
    return content


def _checked(reference: str, secret: str) -> str:
    """A password has no control characters (RFC 4013): what has some is another file, or several things in one."""
    if not secret:
        raise _unreadable(reference, "it is empty")
    if any(unicodedata.category(each) == "Cc" for each in secret):
        raise _unreadable(reference, "it has several lines or control characters, so it is no password")
    return secret


def _unreadable(reference: str, why: str) -> SecretUnreadable:
    return SecretUnreadable(f"{reference}: {why}")
