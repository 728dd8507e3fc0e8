"""One-time links: ``/auth/links/{value}`` tells what one is for, and uses it up.

The value itself is what lets its reader in: no principal is asked for, and it stands in no log.
"""

from typing import Never

from fastapi import APIRouter, Request
from pydantic import AwareDatetime

from worker.api.auth import Gate, client_address
from worker.api.bodies import SMALL_BODY_BYTES, Body, read_body
from worker.api.described import WITH_BODY, problems, takes
from worker.api.login import TypedPassword, refuse_hurry
from worker.api.problem import invalid, not_found
from worker.control.errors import NotFound
from worker.control.passwords import Passwords
from worker.control.people import Link, Purpose
from worker.control.ports import Directory
from worker.control.throttle import Throttle, client_key


class LinkBody(Body):
    """What using a link needs: a password for set_password, nothing for confirm_email."""

    password: TypedPassword | None = None


class LinkShown(Body):
    """What a link is for; `email` is whose password it sets, or the new address that it confirms."""

    purpose: Purpose
    email: str
    expires_at: AwareDatetime


class LinkUsed(Body):
    """What a link did; `email` is the user's address from now on."""

    purpose: Purpose
    email: str


def links_router(gate: Gate, directory: Directory, passwords: Passwords, throttle: Throttle) -> APIRouter:
    """Build the endpoints; `throttle` counts by client."""
    router = APIRouter(prefix="/auth/links", tags=["authentication"])

    async def found(value: str, request: Request) -> Link:
        refuse_hurry(throttle.draw(client_key(client_address(request))))
        link = await directory.link(value)
        return link if link is not None else _gone()

    @router.get("/{value}", summary="What a one-time link is for", responses=problems(404, 422, 429, 503))
    async def look(value: str, request: Request) -> LinkShown:
        link = await found(value, request)
        return LinkShown(purpose=link.purpose, email=link.email or link.user.email, expires_at=link.expires_at)

    @router.post(
        "/{value}",
        summary="Use a one-time link: set the password, or confirm the address",
        responses=problems(403, 404, 429, 503, *WITH_BODY),
        openapi_extra=takes(LinkBody),
    )
    async def use(value: str, request: Request) -> LinkUsed:
        gate.refuse_other_sites(request)
        link = await found(value, request)
        hashed = await _password_for(link, await read_body(request, LinkBody, SMALL_BODY_BYTES), passwords)
        try:
            user = await directory.use_link(value, link.purpose, password_hash=hashed, origin=client_address(request))
        except NotFound:  # somebody else has used it since
            _gone()
        return LinkUsed(purpose=link.purpose, email=user.email)

    return router


async def _password_for(link: Link, body: LinkBody, passwords: Passwords) -> str | None:
    match link.purpose:
        case Purpose.SET_PASSWORD:
            if body.password is None:
                raise invalid("password", "is missing: this link sets one")
            return await passwords.hash(body.password.get_secret_value(), email=link.user.email)
        case Purpose.CONFIRM_EMAIL:
            if body.password is not None:
                raise invalid("password", "this link confirms an address and sets no password")
            return None


def _gone() -> Never:
    raise not_found()
