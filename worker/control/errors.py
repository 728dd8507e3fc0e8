"""What the store refuses, as errors that the API and the commands turn into an answer.

Each names the field at fault and never quotes a secret.
"""

from worker.errors import PostboteError


class Refused(PostboteError):
    """A change that cannot be made as asked; `path` is the field at fault."""

    def __init__(self, path: str, message: str) -> None:
        """Keep the path apart, for the answer's ``errors``."""
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class NotFound(Refused):
    """What is named is not there, or is not the asker's to know of."""


class Taken(Refused):
    """The name is in use already; names are unique in their scope."""


class InUse(Refused):
    """Something else refers to it; the message names what."""


class Stale(Refused):
    """It was changed since the asker read it; `current` is the version it has now (0: it is gone)."""

    def __init__(self, path: str, message: str, current: int) -> None:
        """Keep the version, for the answer's ETag."""
        super().__init__(path, message)
        self.current = current


class PasswordNeeded(Refused):
    """The stored password belongs to another host, port or user, and must not be sent there."""


class NotWorking(Refused):
    """It needs a mail to be sent, and no SMTP record applies that could."""
