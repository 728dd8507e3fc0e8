"""``/v1/users``: the users of one scope, the asker's own or one below it.

Inviting somebody, and changing an address, take effect by a mail: without an SMTP record that works both
are refused, before anything is stored.
"""

from dataclasses import dataclass
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AwareDatetime, StringConstraints, model_validator

from schemas.address import Address
from schemas.smtp_config import Scope
from schemas.text import RequiredText
from worker.api.auth import Gate, Target, known_id
from worker.api.bodies import Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.problem import not_found
from worker.api.sending import require_working
from worker.control.mails import Mails
from worker.control.people import NewUser, User, UserState
from worker.control.ports import Directory
from worker.control.principals import Role
from worker.delivery.ports import ConfigSource

PersonName = Annotated[RequiredText, StringConstraints(max_length=200, pattern=r"\S")]


class Invitation(Body):
    """Who is invited; a viewer unless said otherwise."""

    email: Address
    name: PersonName | None = None
    role: Role = Role.VIEWER


class UserChange(Body):
    """What is to be another; an address is changed alone, since it takes effect at another time."""

    role: Role | None = None
    state: Literal[UserState.ACTIVE, UserState.DISABLED] | None = None
    email: Address | None = None

    @model_validator(mode="after")
    def _one_thing(self) -> Self:
        rest = [name for name in ("role", "state") if getattr(self, name) is not None]
        if self.email is None and not rest:
            raise ValueError("nothing is to be changed: give role, state or email")
        if self.email is not None and rest:
            raise ValueError(f"email is changed alone: send {rest[0]} in a request of its own")
        return self


class UserShown(Body):
    """One user."""

    id: str
    email: str
    name: str | None
    scope: str
    role: Role
    state: UserState
    created_at: AwareDatetime

    @classmethod
    def of(cls, user: User) -> Self:
        """As an answer shows it."""
        return cls(
            id=user.id,
            email=user.email,
            name=user.name,
            scope=str(user.scope),
            role=user.role,
            state=user.state,
            created_at=user.created_at,
        )


class UsersShown(Body):
    """The users of one scope, by address."""

    users: tuple[UserShown, ...]


class EmailAsked(Body):
    """A new address waits for its confirmation."""

    id: str
    email: str
    requested_email: str


@dataclass(frozen=True, slots=True)
class _Parts:
    """What the endpoints work with."""

    gate: Gate
    directory: Directory
    configs: ConfigSource
    mails: Mails


def users_router(gate: Gate, directory: Directory, configs: ConfigSource, mails: Mails) -> APIRouter:
    """Build the endpoints; `configs` tells whether a mail would go out, `mails` makes it."""
    router = APIRouter(prefix="/v1/users", tags=["users"])
    parts = _Parts(gate, directory, configs, mails)
    _add_list(router, parts)
    _add_invite(router, parts)
    _add_change(router, parts)
    return router


def _add_list(router: APIRouter, parts: _Parts) -> None:
    reader = Annotated[Target, Depends(parts.gate.target())]

    @router.get("", summary="The users of a scope", responses=problems(404, 422, *WITH_PRINCIPAL))
    async def users(target: reader) -> UsersShown:
        found = await parts.directory.users(target.scope)
        return UsersShown(users=tuple(map(UserShown.of, found)))


def _add_invite(router: APIRouter, parts: _Parts) -> None:
    admin = Annotated[Target, Depends(parts.gate.target(role=Role.ADMIN))]

    @router.post(
        "",
        status_code=201,
        summary="Invite somebody by a mail with a one-time link",
        responses=problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(Invitation),
    )
    async def invite(request: Request, target: admin) -> UserShown:
        body = await read_body(request, Invitation)
        await require_working(parts.configs, target.scope)
        new = NewUser(body.email, body.name, target.scope, body.role)
        mail = parts.mails.invited(new, target.asker.principal.name)
        return UserShown.of(await parts.directory.add_user(new, target.asker.actor, mail=mail))


def _add_change(router: APIRouter, parts: _Parts) -> None:
    admin = Annotated[Target, Depends(parts.gate.target(role=Role.ADMIN))]

    @router.patch(
        "/{user_id}",
        response_model=UserShown,
        summary="Change role or state at once, or ask for another address",
        responses={
            **problems(404, 409, *WITH_BODY, *WITH_PRINCIPAL),
            202: {"description": "Both addresses get a mail; the new one counts once confirmed", "model": EmailAsked},
        },
        openapi_extra=takes(UserChange),
    )
    async def change(request: Request, user_id: str, target: admin) -> UserShown | Response:
        user = await _existing(parts.directory, target.scope, user_id)
        body = await read_body(request, UserChange)
        if body.email is not None:
            return await _ask_for_email(parts, target, user, body.email)
        changed = await parts.directory.change_user(
            target.scope, user.id, target.asker.actor, role=body.role, state=body.state
        )
        return UserShown.of(changed)

    @router.delete(
        "/{user_id}",
        status_code=204,
        summary="Disable a user, who is kept for the history",
        responses=problems(404, 422, *WITH_PRINCIPAL),
    )
    async def disable(user_id: str, target: admin) -> None:
        user = await _existing(parts.directory, target.scope, user_id)
        await parts.directory.change_user(target.scope, user.id, target.asker.actor, state=UserState.DISABLED)


async def _ask_for_email(parts: _Parts, target: Target, user: User, email: str) -> Response:
    await require_working(parts.configs, target.scope)
    make = parts.mails.email_changed(user, email, target.asker.principal.name)
    await parts.directory.ask_for_email(target.scope, user.id, email, target.asker.actor, make)
    asked = EmailAsked(id=user.id, email=user.email, requested_email=email)
    return JSONResponse(asked.model_dump(), status_code=202)


async def _existing(directory: Directory, scope: Scope, user_id: str) -> User:
    found = await directory.user(scope, known_id(user_id))
    if found is None:
        raise not_found()
    return found
