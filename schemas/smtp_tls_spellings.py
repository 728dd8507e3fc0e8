"""What people say about TLS, in four spellings, as one `TlsMode`.

``tls`` names the mode. Rafay's ``use_tls`` says whether there is TLS at all. Harness has two check boxes,
``useSSL`` and ``startTLS``, of which one that is missing is off. Where a choice is left the port decides:
TLS at once on 465, STARTTLS on every other one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from schemas.smtp_config import SMTPS_PORT, TlsMode, tls_from_flags

TLS_NAMES = ("tls", "use_tls", "useSSL", "startTLS")
_BEGIN_IN_CLEAR = (25, 587)
_MODES = frozenset(TlsMode)


@dataclass(frozen=True, slots=True)
class TlsRead:
    """The mode, the field that said so (``tls`` where none did), and what may surprise about it."""

    mode: TlsMode
    said_by: str
    notices: tuple[str, ...]


def read_tls(given: Mapping[str, Any], port: int) -> TlsRead:
    """Choose the mode by what is given; raises ValueError(field, message) where that cannot be."""
    said = {name: given[name] for name in TLS_NAMES if given.get(name) is not None}
    left, by = _MODES, "tls"
    for name, modes in _possible(said):
        if not left & modes:
            raise ValueError(name, differs(by))
        left, by = left & modes, (by if left < _MODES else name)
    preferred = tls_from_flags(port, use_tls=True)
    mode = preferred if preferred in left else next(mode for mode in TlsMode if mode in left)
    return TlsRead(mode, by, tuple(_notices(mode, port, said)))


def differs(other: str) -> str:
    """The message about a field that contradicts `other`."""
    return f"says otherwise than {other}, which is another spelling of the same: give one of them"


def _possible(said: Mapping[str, Any]) -> Iterator[tuple[str, frozenset[TlsMode]]]:
    """What each spelling leaves possible."""
    if "tls" in said:
        if said["tls"] not in tuple(TlsMode):
            raise ValueError("tls", f"expected one of {', '.join(TlsMode)}")
        yield "tls", frozenset({TlsMode(said["tls"])})
    for name in TLS_NAMES[1:]:
        if not isinstance(said.get(name, False), bool):
            raise ValueError(name, "expected true or false")  # noqa: TRY004 # of a field, whatever its type
    if "use_tls" in said:
        yield "use_tls", _MODES - {TlsMode.NONE} if said["use_tls"] else frozenset({TlsMode.NONE})
    if "useSSL" in said or "startTLS" in said:
        yield _of_check_boxes(said)


def _of_check_boxes(said: Mapping[str, Any]) -> tuple[str, frozenset[TlsMode]]:
    if said.get("useSSL"):
        return "useSSL", frozenset({TlsMode.SSL})
    if said.get("startTLS"):
        return "startTLS", frozenset({TlsMode.STARTTLS})
    return "useSSL" if "useSSL" in said else "startTLS", frozenset({TlsMode.NONE})


def _notices(mode: TlsMode, port: int, said: Mapping[str, Any]) -> Iterator[str]:
    if not said:
        yield f"nothing was said about TLS: {mode}, as port {port} asks for it"
    if said.get("useSSL") and said.get("startTLS"):
        yield "useSSL and startTLS are both on: ssl is used, for there TLS comes before STARTTLS could"
    if mode is TlsMode.STARTTLS and port == SMTPS_PORT:
        yield "port 465 speaks TLS at once as a rule: starttls there seldom works"
    if mode is TlsMode.SSL and port in _BEGIN_IN_CLEAR:
        yield f"port {port} begins in clear as a rule: ssl there seldom works, starttls does"
