"""Scopes, an actor and a password of the tests of people; and passwords that count their work."""

from schemas.smtp_config import CONTROLLER, Scope
from worker.control.passwords import Passwords
from worker.control.principals import Actor, Kind

ACME = Scope("acme")
DEV = Scope("acme", "dev")
OPS = Scope("acme", "ops")
GLOBEX = Scope("globex")
LAB = Scope("globex", "lab")
TESTS = Actor(Kind.COMMAND, "tests", CONTROLLER)
PASSWORD = "correct horse battery staple"
OTHER_PASSWORD = "another horse, another staple"


class Counted(Passwords):
    """The real passwords; `verified` counts runs of argon2 that compare one."""

    verified = 0

    def _verify(self, stored: str, octets: bytes) -> bool:
        self.verified += 1
        return super()._verify(stored, octets)
