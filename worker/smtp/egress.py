"""Where a tenant's record may lead: the guard against requests into the operator's own network.

A partner or an organization names a host and a port, and Postbote connects from within the
operator's network and tells them what happened: without a guard that is a port scanner. So their
records reach public addresses and mail ports only, plus what the operator allows. Every address
is judged as the number that is then dialled: by that time a name's spelling (``2130706433``,
``0177.0.0.1``, ``0x7f.1``) and a second look-up with another result (rebinding) mean nothing.

The controller's own record is trusted and not judged.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from schemas.smtp_config import ScopeLevel, SmtpConfig

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
PortRange = tuple[int, int]

MAIL_PORTS: tuple[PortRange, ...] = ((25, 25), (465, 465), (587, 587), (2525, 2525))

# IANA's special-purpose registry, and the metadata service that Azure runs on a public address.
_CLOSED_V4 = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata service is 100.100.100.200
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure
        "169.254.0.0/16",  # link-local; 169.254.169.254 is nearly everybody's metadata service
        "172.16.0.0/12",
        "192.0.0.0/24",  # Oracle's metadata service is 192.0.0.192
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
# Of IPv6 only 2000::/3 is in public use, and of that not all.
_OPEN_V6 = IPv6Network("2000::/3")
_CLOSED_V6 = tuple(IPv6Network(each) for each in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")


@dataclass(frozen=True, slots=True)
class EgressGuard:
    """What the operator allows beyond public addresses and mail ports: networks, and ranges of ports."""

    allow: tuple[Network, ...] = ()
    ports: tuple[PortRange, ...] = ()

    def port_denied(self, config: SmtpConfig) -> str | None:
        """Return why the record's port may not be connected to, or None."""
        if _trusted(config) or any(low <= config.port <= high for low, high in (*MAIL_PORTS, *self.ports)):
            return None
        return f"port {config.port} is not among the ports that mail may be sent to"

    def address_denied(self, config: SmtpConfig, host: str) -> str | None:
        """Return why `host`, an address as a number, may not be connected to, or None.

        The text does not repeat the address: what a name resolves to inside is nobody else's business.
        """
        if _trusted(config):
            return None
        try:
            address = ip_address(host.partition("%")[0])  # a zone says which link, not which network
        except ValueError:
            return "the host has no address that can be checked"
        return None if self._permits(address) else "the host's address is not a public one"

    def _permits(self, address: Address) -> bool:
        if any(address in network for network in self.allow if network.version == address.version):
            return True
        if isinstance(address, IPv4Address):
            return not any(address in network for network in _CLOSED_V4)
        inner = tuple(_embedded(address))
        if inner:
            return all(map(self._permits, inner))
        return address in _OPEN_V6 and not any(address in network for network in _CLOSED_V6)


def _trusted(config: SmtpConfig) -> bool:
    return config.scope.level is ScopeLevel.CONTROLLER


def _embedded(address: IPv6Address) -> Iterator[IPv4Address]:
    """Yield the IPv4 addresses that a packet to `address` is really for."""
    number = int(address)
    if address in _MAPPED or address in _NAT64:
        yield IPv4Address(number & 0xFFFFFFFF)
    elif address in _SIX_TO_FOUR:
        yield IPv4Address(number >> 80 & 0xFFFFFFFF)
    elif address in _TEREDO:
        yield IPv4Address(number >> 64 & 0xFFFFFFFF)  # the relay's server
        yield IPv4Address(~number & 0xFFFFFFFF)  # the client, written inverted (RFC 4380 section 4)
