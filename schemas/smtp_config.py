"""SMTP records: which server a scope sends through, and how.

One record belongs to one scope. The whole record of the most specific scope wins; fields are
never merged across scopes, so a partner's password can never travel to an organization's host.
"""

import hashlib
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, TypeAdapter, model_validator

from schemas.address import Address
from schemas.text import RequiredText, TenantName

SMTPS_PORT = 465
_TENANT: TypeAdapter[str] = TypeAdapter(TenantName)
_SCOPE_FORMS = "expected controller, partner:NAME or org:PARTNER/NAME (letters, digits, . _ -)"


class TlsMode(StrEnum):
    """How the connection is protected; STARTTLS is required, never opportunistic (RFC 3207)."""

    NONE = "none"
    STARTTLS = "starttls"
    SSL = "ssl"


class ScopeLevel(StrEnum):
    """The three levels, least specific first."""

    CONTROLLER = "controller"
    PARTNER = "partner"
    ORG = "org"


class _Names(NamedTuple):
    partner: str | None
    org: str | None


class Scope(_Names):
    """Whose mail or record it is: the controller's, a partner's, or a partner's organization's."""

    # A tuple, since caps, lines, breakers and caches look scopes up ten times a mail: a dataclass hashes in Python.
    __slots__ = ()

    def __new__(cls, partner: str | None = None, org: str | None = None) -> Self:
        """Refuse an organization without its partner, by a ValueError."""
        if org is not None and partner is None:
            msg = "an org needs its partner"
            raise ValueError(msg)
        return super().__new__(cls, partner, org)

    @property
    def level(self) -> ScopeLevel:
        """The level this scope stands on."""
        if self.org is not None:
            return ScopeLevel.ORG
        return ScopeLevel.PARTNER if self.partner is not None else ScopeLevel.CONTROLLER

    def lineage(self) -> tuple["Scope", ...]:
        """This scope and every wider one, most specific first: the order of resolution."""
        if self.partner is None:
            return (self,)
        return (self, CONTROLLER) if self.org is None else (self, shared_scope(self.partner, None), CONTROLLER)

    def __str__(self) -> str:
        """``controller``, ``partner:NAME`` or ``org:PARTNER/NAME``, as `parse` reads it."""
        if self.partner is None:
            return "controller"
        return f"partner:{self.partner}" if self.org is None else f"org:{self.partner}/{self.org}"

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read the form that `str` writes; raise ValueError naming the three forms."""
        kind, _, rest = text.partition(":")
        names = rest.split("/") if rest else []
        if len(names) != {"controller": 0, "partner": 1, "org": 2}.get(kind):
            raise ValueError(_SCOPE_FORMS)
        try:
            return cls(*(_TENANT.validate_python(name) for name in names))
        except ValueError:
            raise ValueError(_SCOPE_FORMS) from None


CONTROLLER = Scope()
"""The widest scope: whoever runs Postbote."""


@lru_cache(maxsize=10_000)
def shared_scope(partner: str | None, org: str | None) -> Scope:
    """Return the scope, the same object while it is in use: each mail asks for its own several times."""
    return Scope(partner, org)


Host = Annotated[
    str,
    StringConstraints(
        min_length=1, max_length=253, pattern=r"^(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?|\[?[0-9A-Fa-f:.]+\]?)$"
    ),
]


DomainName = Annotated[str, StringConstraints(max_length=253, pattern=r"^[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?$")]

SECRETS = ("password", "dkim_key")
"""The fields that are never shown and stored sealed only."""


class SmtpConfig(BaseModel):
    """One SMTP record of one scope.

    `timeout_s` bounds each step of the dialogue in seconds, `rate_per_minute` counts mails,
    `version` only ever goes up within (scope, display name). `retries` is how many times a
    transient failure is tried again in process (0: never). `chunking` sends contents by BDAT where
    the server offers it (RFC 3030). `require_tls` asks every server on the way for TLS (RFC 8689),
    and sends nothing by one that does not promise it. The three `dkim_` fields sign each mail.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    partner: TenantName | None = None
    org: TenantName | None = None
    display_name: RequiredText = "default"
    host: Host
    port: Annotated[int, Field(ge=1, le=65535)]
    tls: TlsMode
    verify_tls: bool = True
    ca_bundle: str | None = None
    username: RequiredText | None = None
    password: SecretStr | None = None
    from_address: Address | None = None
    reply_to: Address | None = None
    allowed_from: tuple[RequiredText, ...] = ()
    retries: Annotated[int, Field(ge=0, le=20)] = 3
    max_connections: Annotated[int, Field(ge=1, le=200)] = 4
    rate_per_minute: Annotated[int, Field(ge=1)] | None = None
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0
    chunking: bool = False
    require_tls: bool = False
    dkim_domain: DomainName | None = None
    dkim_selector: DomainName | None = None
    dkim_key: SecretStr | None = None
    version: Annotated[int, Field(ge=1)] = 1

    @model_validator(mode="after")
    def _check(self) -> Self:
        Scope(self.partner, self.org)
        if (self.username is None) != (self.password is None):
            missing, given = ("password", "username") if self.password is None else ("username", "password")
            msg = f"{given} is set without {missing}: give both, or neither for an anonymous server"
            raise ValueError(msg)
        if self.username is not None and self.tls is TlsMode.NONE:
            msg = "credentials are never sent without TLS: set tls to starttls or ssl, or leave out the credentials"
            raise ValueError(msg)
        if self.require_tls and (self.tls is TlsMode.NONE or not self.verify_tls):
            msg = "require_tls needs TLS to a server whose certificate is verified (RFC 8689)"
            raise ValueError(msg)
        self._check_dkim()
        return self

    def _check_dkim(self) -> None:
        parts = {"dkim_domain": self.dkim_domain, "dkim_selector": self.dkim_selector, "dkim_key": self.dkim_key}
        missing = [name for name, value in parts.items() if value is None]
        if missing and len(missing) < len(parts):
            msg = f"{missing[0]} is missing: a signature needs a domain, a selector and a key"
            raise ValueError(msg)

    @property
    def scope(self) -> Scope:
        """The scope that owns the record."""
        return shared_scope(self.partner, self.org)

    @property
    def anonymous(self) -> bool:
        """True where no credentials are sent."""
        return self.username is None

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hex digits that change with any field that decides where and how mail is sent.

        The secrets are left out: a digest of a password in the audit would let its readers test guesses.
        """
        shown = self.model_dump_json(exclude={*SECRETS, "version"})
        return hashlib.sha256(shown.encode()).hexdigest()[:16]

    def warnings(self) -> tuple[str, ...]:
        """What an operator should keep seeing about this record; empty where all is well."""
        found = []
        if self.anonymous:
            found.append("anonymous: no credentials are sent; only a server that trusts this network will relay")
        if self.tls is TlsMode.NONE:
            found.append("no TLS: mail crosses the network in clear")
        elif not self.verify_tls:
            found.append("verify_tls is off: anybody in between can read the mail and the credentials")
        return tuple(found)


def tls_from_flags(port: int, *, use_tls: bool) -> TlsMode:
    """Translate Rafay's `use_tls`: port 465 speaks TLS at once, any other port by STARTTLS."""
    if not use_tls:
        return TlsMode.NONE
    return TlsMode.SSL if port == SMTPS_PORT else TlsMode.STARTTLS


def label(scope: Scope, name: str) -> str:
    """How an error names a record."""
    return f"record {name!r} of {scope}"
