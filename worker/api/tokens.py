"""``/v1/tokens``: bearer tokens for programs; a value is shown once, when it is made."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Self

from fastapi import APIRouter, Depends, Request
from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from schemas.text import RequiredText
from worker.api.auth import Gate, Target, known_id
from worker.api.bodies import Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.problem import not_found
from worker.control.people import Token
from worker.control.ports import Directory
from worker.control.principals import Role


class NewToken(Body):
    """A token as it is wanted; without an end it lives until it is revoked."""

    name: Annotated[RequiredText, StringConstraints(max_length=200, pattern=r"\S")]
    role: Role = Role.VIEWER
    expires_at: AwareDatetime | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=3660)] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> Self:
        if self.expires_at is not None and self.expires_in_days is not None:
            raise ValueError("expires_at and expires_in_days exclude each other: give one")
        return self

    def ends_at(self, now: datetime) -> datetime | None:
        """When it expires."""
        return self.expires_at if self.expires_in_days is None else now + timedelta(days=self.expires_in_days)


class TokenShown(Body):
    """One token without its value."""

    id: str
    name: str
    scope: str
    role: Role
    created_at: AwareDatetime
    created_by: str
    expires_at: AwareDatetime | None
    used_at: AwareDatetime | None


class TokenMade(TokenShown):
    """A new token; `token` is its value, which is shown this once."""

    token: str


class TokensShown(Body):
    """The tokens of one scope."""

    tokens: tuple[TokenShown, ...]


def tokens_router(gate: Gate, directory: Directory) -> APIRouter:
    """Build the endpoints. Only admins use them, so that no token has a role beyond its maker's."""
    router = APIRouter(prefix="/v1/tokens", tags=["tokens"])
    admin = Annotated[Target, Depends(gate.target(role=Role.ADMIN))]

    @router.get("", summary="The tokens of a scope", responses=problems(404, 422, *WITH_PRINCIPAL))
    async def tokens(target: admin) -> TokensShown:
        found = await directory.tokens(target.scope)
        return TokensShown(tokens=tuple(TokenShown(**_shown(token)) for token in found))

    @router.post(
        "",
        status_code=201,
        summary="Make a token; its value is in this answer alone",
        responses=problems(404, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(NewToken),
    )
    async def create(request: Request, target: admin) -> TokenMade:
        body = await read_body(request, NewToken)
        end = body.ends_at(datetime.now(UTC))
        token, value = await directory.create_token(
            body.name, target.scope, body.role, target.asker.actor, expires_at=end
        )
        return TokenMade(**_shown(token), token=value)

    @router.delete(
        "/{token_id}",
        status_code=204,
        summary="Revoke a token: its next request is refused",
        responses=problems(404, 422, *WITH_PRINCIPAL),
    )
    async def revoke(token_id: str, target: admin) -> None:
        if not await directory.revoke_token(target.scope, known_id(token_id), target.asker.actor):
            raise not_found()

    return router


def _shown(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scope": str(token.scope),
        "role": token.role,
        "created_at": token.created_at,
        "created_by": token.created_by,
        "expires_at": token.expires_at,
        "used_at": token.used_at,
    }
