"""Who asks: the principal of a request, by the cookie ``rsid`` or by a bearer token.

Each request looks its principal up, so that a revoked token or an ended session is refused from then on.
A browser sends the cookie with whatever any page makes it send: a request that comes from another site
is refused, by what the browser says of it (Sec-Fetch-Site, Origin). Clients that are no browsers say
neither, and pass.
"""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Query, Request, Security
from fastapi.security import APIKeyCookie, HTTPBearer
from pydantic import TypeAdapter, ValidationError

from schemas.smtp_config import Scope, ScopeLevel
from schemas.text import TenantName
from worker.api.problem import Problem, forbidden, invalid, not_found
from worker.control.ports import Directory
from worker.control.principals import Actor, Principal, Role

COOKIE = "rsid"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})  # none: typed, bookmarked, or no page behind it
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_NAME: TypeAdapter[str] = TypeAdapter(TenantName)

# Both only describe themselves to the schema; `Gate` reads the headers.
_Cookie = Annotated[
    str | None,
    Security(APIKeyCookie(name=COOKIE, scheme_name="session", description="Set by login", auto_error=False)),
]
_Bearer = Annotated[object, Security(HTTPBearer(scheme_name="token", description="A token's value", auto_error=False))]


@dataclass(frozen=True, slots=True)
class Asker:
    """The principal of one request, the client's IP address, and the cookie's value where that proved it."""

    principal: Principal
    origin: str | None
    session: str | None = field(default=None, repr=False)

    @property
    def scope(self) -> Scope:
        """The principal's own scope."""
        return self.principal.scope

    @property
    def actor(self) -> Actor:
        """Who history and audit will name."""
        return self.principal.acting_from(self.origin)


@dataclass(frozen=True, slots=True)
class Target:
    """Who asks, and the scope that the request is about: the asker's own or one below it."""

    asker: Asker
    scope: Scope


Admission = Callable[..., Awaitable[Asker]]
"""A FastAPI dependency: the asker, or a problem answer instead of the endpoint."""

Aim = Callable[..., Awaitable[Target]]
"""A FastAPI dependency that reads ``?partner=`` and ``?org=``, too."""

PartnerName = Annotated[str | None, Query(description="A partner, where the controller asks")]
OrgName = Annotated[str | None, Query(description="An organization, where its partner or the controller asks")]


class Gate:
    """Admits requests by their principal; its members are dependencies: ``Depends(gate.admin)``.

    `reader` admits any principal, `admin` those who may change things (else 403), `at` those of some levels
    (else 404). Without a valid principal the answer is 401. `public_origin`: scheme, host and port by which
    browsers know this API where a proxy changes the Host header.
    """

    reader: Admission
    admin: Admission

    def __init__(
        self,
        directory: Directory,
        *,
        public_origin: str | None = None,
        secure_cookies: bool = False,
        session_h: float = 12.0,
    ) -> None:
        """Take the directory and the settings of cookies; `session_h` in hours."""
        self._directory = directory
        self._public_origin = public_origin and public_origin.rstrip("/").lower()
        self.secure_cookies = secure_cookies
        self.session_h = session_h
        self.reader = self.at(*ScopeLevel)
        self.admin = self.at(*ScopeLevel, role=Role.ADMIN)

    def at(self, *levels: ScopeLevel, role: Role = Role.VIEWER) -> Admission:
        """Admit principals of these levels; with ``role=Role.ADMIN`` admins alone.

        To the others the endpoint does not exist.
        """

        async def admit(request: Request, _cookie: _Cookie = None, _bearer: _Bearer = None) -> Asker:
            asker = await self.recognise(request)
            if asker.scope.level not in levels:
                raise not_found()
            if role is Role.ADMIN and not asker.principal.may_change:
                raise forbidden("a viewer reads and changes nothing")
            return asker

        return admit

    def target(self, *levels: ScopeLevel, role: Role = Role.VIEWER) -> Aim:
        """Admit as `at` does, any level where none is named; the request may be about a scope below the asker's."""
        admit = self.at(*(levels or ScopeLevel), role=role)

        async def aim(
            asker: Annotated[Asker, Depends(admit)], partner: PartnerName = None, org: OrgName = None
        ) -> Target:
            return Target(asker, await self.reached(asker, partner, org))

        return aim

    async def recognise(self, request: Request) -> Asker:
        """Find out who asks; raises Problem 401, and 403 for a cookie that another site made a browser send."""
        request.state.principal = None  # from here on the answer depends on who asks: see `headers`
        bearer, session = bearer_token(request), request.cookies.get(COOKIE)
        if bearer is not None:
            principal, session = await self._directory.principal_of_token(bearer), None
        elif session:
            self.refuse_other_sites(request)
            principal = await self._directory.principal_of_session(session)
        else:
            raise _unauthorized()
        if principal is None:
            raise _unauthorized()
        return Asker(principal, client_address(request), session)

    def refuse_other_sites(self, request: Request) -> None:
        """Raise Problem 403 where a browser says that another site's page sent the request."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if request.method in _SAFE:
            foreign = site == "cross-site"
        else:
            foreign = site not in {None, *_OWN_SITE} or (origin is not None and not self._is_own(origin, request))
        if foreign:
            raise forbidden("this request was sent by a page of another site")

    async def reached(self, asker: Asker, partner: str | None = None, org: str | None = None) -> Scope:
        """The scope that a request names by ``?partner=`` and ``?org=``; the asker's own where it names none.

        Raises Problem 404 for what is not there or out of reach, 422 for an org that lacks its partner.
        """
        if org is not None and partner is None and asker.scope.partner is None:
            raise invalid("partner", "is missing: an org is named together with its partner")
        scope = _named(asker.scope, partner, org)
        if scope == asker.scope:
            return scope
        if not asker.principal.reaches(scope) or not await self._exists(scope):
            raise not_found()
        return scope

    async def _exists(self, scope: Scope) -> bool:
        if scope.partner is None:
            return True
        if scope.org is None:
            return any(each.name == scope.partner for each in await self._directory.partners())
        return await self._directory.organization(scope.partner, scope.org) is not None

    def _is_own(self, origin: str, request: Request) -> bool:
        # A proxy that ends TLS leaves http as the request's scheme.
        host = request.headers.get("host", "").lower()
        own = {f"{request.url.scheme}://{host}", f"https://{host}", self._public_origin}
        return origin.lower() in own


def known_id(value: str) -> str:
    """`value`, if it can be an id at all; raises Problem 404: a database refuses some characters with an error."""
    if _ID.fullmatch(value) is None:
        raise not_found()
    return value


def bearer_token(request: Request) -> str | None:
    """The token of ``Authorization: Bearer`` (RFC 6750); None where the header is of another scheme or missing."""
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def client_address(request: Request) -> str | None:
    """The client's IP address, as the server knows it."""
    return request.client.host if request.client else None


def _named(own: Scope, partner: str | None, org: str | None) -> Scope:
    if partner is None and org is None:
        return own
    try:
        named = (own.partner if partner is None else partner, org)
        names = [None if name is None else _NAME.validate_python(name) for name in named]
    except ValidationError:  # what no scope can be called is not there
        raise not_found() from None
    return Scope(*names)


def _unauthorized() -> Problem:
    # The same whether nothing, nonsense, or something expired or revoked was presented.
    return Problem(
        401,
        "Not authenticated",
        "present a session's cookie rsid (POST /auth/login) or a token as Authorization: Bearer",
        headers={"WWW-Authenticate": "Bearer"},
    )
