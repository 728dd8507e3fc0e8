"""Which way leads to a server: an address, Docker, or a native process; and what would open one."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

FORCE = "POSTBOTE_TEST_SERVICES"


class ServiceUnavailable(Exception):
    """No way to a real server is open; the message names the commands that open one."""


class Way(StrEnum):
    """How a server is reached."""

    URL = "url"
    DOCKER = "docker"
    NATIVE = "native"


@dataclass(frozen=True)
class Offer:
    """One server's three ways; each probe returns None where its way is open, else what is missing."""

    name: str
    url_variable: str | None
    docker: Callable[[], str | None]
    native: Callable[[], str | None]

    def url(self) -> str | None:
        """The address that the environment gives, if it gives one."""
        return (os.environ.get(self.url_variable) or None) if self.url_variable else None

    def closed(self) -> dict[Way, str | None]:
        """Every way, with what keeps it closed; None means open."""
        no_url = None if self.url() else f"set {self.url_variable}"
        ways: dict[Way, str | None] = {Way.URL: no_url} if self.url_variable else {}
        return {**ways, Way.DOCKER: self.docker(), Way.NATIVE: self.native()}

    def choose(self) -> Way:
        """The first open way, or the forced one; raises `ServiceUnavailable`."""
        forced = forced_way()
        if forced is None and self.url():
            return Way.URL
        probes = {Way.DOCKER: self.docker, Way.NATIVE: self.native}
        missing: dict[Way, str] = {}
        for way, probe in probes.items():
            if forced in (None, way):
                reason = probe()
                if reason is None:
                    return way
                missing[way] = reason
        raise ServiceUnavailable(self._message(missing, forced))

    def _message(self, missing: dict[Way, str], forced: Way | None) -> str:
        lines = [f"no way to a real {self.name} is open; any one of these opens one:"]
        if forced is not None:
            lines = [f"{FORCE}={forced} is set, and that way to a real {self.name} is closed:"]
        elif self.url_variable:
            lines.append(f"  - set {self.url_variable} to one that runs")
        return "\n".join([*lines, *(f"  - {way}: {reason}" for way, reason in missing.items())])


def forced_way() -> Way | None:
    """The way that `POSTBOTE_TEST_SERVICES` names; None lets the first open one win."""
    value = os.environ.get(FORCE, "")
    if value in ("", "auto"):
        return None
    if value in (Way.DOCKER, Way.NATIVE):
        return Way(value)
    msg = f"{FORCE}={value}: expected docker, native or auto"
    raise ServiceUnavailable(msg)
