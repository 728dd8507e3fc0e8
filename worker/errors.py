"""The errors that cross a boundary of Postbote. Imports nothing.

An adapter translates its library's errors into these at its edge, so that nobody further in
needs to know which library is in use.
"""


class PostboteError(Exception):
    """The base of all of them; its text is one line that a user may read."""


class SettingsError(PostboteError):
    """A setting is missing, wrong or contradicts another one; the text names the variable."""


class BrokerUnavailable(PostboteError):
    """RabbitMQ cannot be reached, or went away; the caller may try again."""


class PublishRefused(PostboteError):
    """The broker did not confirm a message: nacked, returned, or the connection was lost first."""


class TopologyMismatch(PostboteError):
    """A queue or exchange exists with other arguments than Postbote needs."""


class AuditUnavailable(PostboteError):
    """The audit store cannot be reached or refuses for now; nothing was lost, nothing answered."""


class AuditNotAllowed(AuditUnavailable):
    """The audit store answers, and its user may not do what is needed; the text names the setting."""


class AuditTooSlow(AuditUnavailable):
    """The audit store had no whole answer in the time that one question has; a smaller question may be answered."""


class CursorExpired(PostboteError):
    """What an answer was to go on from is not kept any more: the question has to be asked from its first page."""


class StoreUnavailable(PostboteError):
    """The config store cannot be read now."""


class SecretUnreadable(PostboteError):
    """A stored secret cannot be decrypted with the keys that were given."""


class SecretKeyMissing(PostboteError):
    """A secret is to be stored, or is stored, and no key is set."""


class RenderError(PostboteError):
    """An event that parsed cannot be made into a message; `path` names the field at fault."""

    def __init__(self, path: str, message: str) -> None:
        """Keep the path apart, for the audit's reason."""
        super().__init__(f"{path}: {message}")
        self.path = path
        self.message = message


class JournalUnavailable(PostboteError):
    """The local journal cannot be written, opened or read now; nothing that it took before is lost."""
