"""Coming in and going out: ``/auth/login``, ``/auth/logout``, ``/auth/me``, ``/auth/password``.

Whether an address has a user, an active one, or none cannot be told from login: its answer, the
statements behind it and its work with the password are the same.
"""

import contextlib
import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import AwareDatetime, Field, SecretStr, StringConstraints

from schemas.text import RequiredText
from worker.api.auth import COOKIE, Asker, Gate, client_address
from worker.api.bodies import SMALL_BODY_BYTES, Body, read_body
from worker.api.described import WITH_BODY, WITH_PRINCIPAL, problems, takes
from worker.api.problem import Problem, forbidden, invalid
from worker.control.errors import NotFound, Refused
from worker.control.passwords import Passwords
from worker.control.people import Credentials, User, UserState
from worker.control.ports import Directory
from worker.control.principals import Actor, Kind, Role
from worker.control.throttle import LoginThrottle

_PROOFS = 2
_LONGEST = 1024  # a password's hash costs more the longer it is

TypedPassword = Annotated[SecretStr, Field(min_length=1, max_length=_LONGEST)]
"""A password as somebody typed it; what a new one has to be, `Passwords` says."""


class LoginBody(Body):
    """Who wants in."""

    email: Annotated[RequiredText, StringConstraints(max_length=320)]
    password: TypedPassword


class PasswordBody(Body):
    """The own password as it is and as it is to be."""

    current: TypedPassword
    new: TypedPassword


class LoggedIn(Body):
    """Who came in; the session itself is the cookie."""

    email: str
    scope: str
    role: Role
    expires_at: AwareDatetime


class Me(Body):
    """Who asks: a user by the address, a token by its name."""

    kind: Kind
    name: str
    scope: str
    partner: str | None
    org: str | None
    role: Role


def login_router(gate: Gate, directory: Directory, passwords: Passwords, throttle: LoginThrottle) -> APIRouter:
    """Build the endpoints; `throttle` counts the tries of passwords."""
    router = APIRouter(prefix="/auth", tags=["authentication"])
    _add_login(router, gate, directory, passwords, throttle)
    _add_logout(router, gate, directory)
    _add_own(router, gate, directory, passwords, throttle)
    return router


def _add_login(
    router: APIRouter, gate: Gate, directory: Directory, passwords: Passwords, throttle: LoginThrottle
) -> None:
    @router.post(
        "/login",
        summary="Begin a session: its cookie is rsid",
        responses=problems(401, 403, 429, 503, *WITH_BODY),
        openapi_extra=takes(LoginBody),
    )
    async def login(request: Request, response: Response) -> LoggedIn:
        gate.refuse_other_sites(request)  # else a page could log its visitor in as somebody else
        body, origin = await read_body(request, LoginBody, SMALL_BODY_BYTES), client_address(request)
        refuse_hurry(throttle.draw(body.email, origin))
        expires_at = datetime.now(UTC) + timedelta(hours=gate.session_h)
        # The session of before ends: whoever knew its value knows nothing now.
        opening = _Opening(origin, expires_at, replaces=request.cookies.get(COOKIE))
        opened = await _let_in(body, opening, directory, passwords)
        if opened is None:
            await directory.note_refused_login(body.email, origin)
            raise _refused_login()
        throttle.came_in(body.email, origin)
        user, value = opened
        _set_cookie(response, gate, value)
        return LoggedIn(email=user.email, scope=str(user.scope), role=user.role, expires_at=expires_at)


def _add_logout(router: APIRouter, gate: Gate, directory: Directory) -> None:
    @router.post(
        "/logout", status_code=204, summary="End the session; its cookie is cleared", responses=problems(403, 503)
    )
    async def logout(request: Request, response: Response) -> None:
        gate.refuse_other_sites(request)
        session = request.cookies.get(COOKIE)
        principal = await directory.principal_of_session(session) if session else None
        if session and principal:
            await directory.close_session(session, principal.acting_from(client_address(request)))
        _clear_cookie(response, gate)


def _add_own(
    router: APIRouter, gate: Gate, directory: Directory, passwords: Passwords, throttle: LoginThrottle
) -> None:
    reader = Annotated[Asker, Depends(gate.reader)]

    @router.get("/me", summary="Who asks", responses=problems(*WITH_PRINCIPAL))
    async def me(asker: reader) -> Me:
        principal, scope = asker.principal, asker.scope
        return Me(
            kind=principal.kind,
            name=principal.name,
            scope=str(scope),
            partner=scope.partner,
            org=scope.org,
            role=principal.role,
        )

    @router.post(
        "/password",
        status_code=204,
        summary="Change the own password; every other session ends",
        responses=problems(429, *WITH_BODY, *WITH_PRINCIPAL),
        openapi_extra=takes(PasswordBody),
    )
    async def change(request: Request, asker: reader) -> None:
        if asker.principal.kind is not Kind.USER:
            raise forbidden("a token has no password")
        body = await read_body(request, PasswordBody, SMALL_BODY_BYTES)
        refuse_hurry(throttle.draw(asker.principal.name, asker.origin))
        found = await _proven(asker.principal.name, body.current.get_secret_value(), directory, passwords)
        if found is None:
            raise invalid("current", "is not the password")
        throttle.came_in(asker.principal.name, asker.origin)
        hashed = await passwords.hash(body.new.get_secret_value(), email=found.user.email, path="new")
        await directory.set_password(found.user.id, hashed, asker.actor, but=asker.session, proven=found.password_hash)


@dataclass(frozen=True, slots=True)
class _Opening:
    """What a session is opened with, besides its user."""

    origin: str | None
    expires_at: datetime
    replaces: str | None = field(repr=False)


async def _let_in(
    body: LoginBody, opening: _Opening, directory: Directory, passwords: Passwords
) -> tuple[User, str] | None:
    """The user and the value of a new session, None for whoever may not come in.

    Between the proof and the session the password may have been changed, or its hash made anew by another
    login: what counts is whether it fits what is stored by then, so it is proven once more.
    """
    for _ in range(_PROOFS):
        found = await _proven(body.email, body.password.get_secret_value(), directory, passwords)
        if found is None:
            return None
        user, actor = found.user, Actor(Kind.USER, found.user.email, found.user.scope, opening.origin)
        with contextlib.suppress(NotFound):  # disabled or changed at this very moment
            value = await directory.open_session(
                user.id,
                proven=found.password_hash,
                expires_at=opening.expires_at,
                replaces=opening.replaces,
                actor=actor,
            )
            return user, value
    return None


async def _proven(email: str, password: str, directory: Directory, passwords: Passwords) -> Credentials | None:
    """The active user whose password it is, with the hash that it fits; as much work where there is none."""
    found = await directory.credentials(email)
    usable = found.password_hash if found and found.user.state is UserState.ACTIVE else None
    if not await passwords.verify(usable, password) or found is None or usable is None:
        return None
    if passwords.needs_rehash(usable):
        return Credentials(found.user, await _rehash(found.user.id, usable, password, directory, passwords))
    return found


async def _rehash(user_id: str, old: str, password: str, directory: Directory, passwords: Passwords) -> str:
    try:
        new = await passwords.hash(password)
    except Refused:
        return old  # older than today's rules for new ones: it counts as it is until its owner changes it
    await directory.rehash_password(user_id, old, new)
    return new


def refuse_hurry(wait_s: float) -> None:
    """Raise Problem 429 where somebody has to wait."""
    if wait_s > 0:
        headers = {"Retry-After": str(math.ceil(wait_s))}
        raise Problem(429, "Too many tries", "wait for as many seconds as Retry-After says", headers=headers)


def _refused_login() -> Problem:
    return Problem(401, "Not authenticated", "the address or the password is wrong")


def _set_cookie(response: Response, gate: Gate, value: str) -> None:
    response.set_cookie(COOKIE, value, max_age=round(gate.session_h * 3600), **_attributes(gate))


def _clear_cookie(response: Response, gate: Gate) -> None:
    response.delete_cookie(COOKIE, **_attributes(gate))


def _attributes(gate: Gate) -> dict[str, Any]:
    return {"path": "/", "secure": gate.secure_cookies, "httponly": True, "samesite": "strict"}
