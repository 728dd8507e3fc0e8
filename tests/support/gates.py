"""A real gate before routers under test, with tokens that say whose they are: ``admin@org:acme/dev``."""

from schemas.smtp_config import Scope
from worker.api.auth import Gate
from worker.control.principals import Kind, Principal, Role


def principal_of(text: str) -> Principal:
    """The principal that a token such as ``viewer@partner:acme`` stands for."""
    role, _, scope = text.partition("@")
    return Principal(Kind.TOKEN, text, text, Scope.parse(scope), Role(role))


class SpokenTokens:
    """The part of a Directory that a gate asks; any other word than a role and a scope is nobody."""

    async def principal_of_token(self, value: str) -> Principal | None:
        try:
            return principal_of(value)
        except ValueError:
            return None

    async def principal_of_session(self, value: str) -> Principal | None:
        return await self.principal_of_token(value)


def gate() -> Gate:
    """A gate over such tokens."""
    return Gate(SpokenTokens())  # type: ignore[arg-type]


def as_(text: str) -> dict[str, str]:
    """The header of such a principal."""
    return {"Authorization": f"Bearer {text}"}
