"""Heads: whether they are signed as they should be, and those that logs kept elsewhere remember."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from schemas.audit_times import epoch_ms
from worker.proof.findings import Finding, Kind
from worker.proof.keys import key_bytes, key_id
from worker.proof.ports import Stored
from worker.proof.signing import PublicKeys
from worker.proof.verify_chain import Vouch

EVENT = "audit head"
"""What a line of the log says that tells of a head."""

_HASH_DIGITS = 64


class Witness(NamedTuple):
    """A head as a log remembers it; `at` is its time as text, None where the log has none."""

    writer: str
    seq: int
    hash: str
    signature: str | None
    at: str | None

    @property
    def at_ms(self) -> int | None:
        """Its time in milliseconds since 1970."""
        try:
            return None if self.at is None else epoch_ms(datetime.fromisoformat(self.at))
        except (ValueError, TypeError):  # a time without a zone cannot be compared
            return None


@dataclass(frozen=True, slots=True)
class HeadKeys:
    """The public keys that heads may be signed with, as base64; without any, no signature is looked at."""

    keys: tuple[str, ...] = ()
    _public: PublicKeys | None = None

    @classmethod
    def read(cls, keys: Iterable[str]) -> "HeadKeys":
        """Take them; raises ValueError."""
        given = tuple(keys)
        return cls(given, PublicKeys(given) if given else None)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self._public is not None

    def signed(self, head: Mapping[str, Any]) -> bool:
        """Whether a head bears the signature of a key that is known."""
        return self._public is not None and self._public.signed(head)

    def fault(self, stored: Stored) -> Finding | None:
        """What is wrong with a head's signature, None where nothing is or nobody can tell."""
        head = stored.document
        if self._public is None or self._public.signed(head):
            return None
        if head.get("signature") is None:
            kind, says = Kind.UNSIGNED, "the head is not signed"
        elif not self._public.knows(head):
            kind, says = Kind.FORGED, "the head is signed with a key that is not known"
        else:
            kind, says = Kind.FORGED, "the head's signature is not that of what it says"
        return Finding(
            kind,
            says,
            head.get("writer"),
            head.get("seq"),
            index=stored.place,
            document_id=stored.document_id,
            time=str(head.get("@timestamp")),
        )

    def doubts(self, witness: Witness) -> Finding | None:
        """What is wrong with the signature that a log remembers; one that remembers none is trusted for itself."""
        if self._public is None or witness.signature is None:
            return None
        head = {"writer": witness.writer, "seq": witness.seq, "hash": witness.hash, "@timestamp": witness.at}
        ids = (key_id(key_bytes(key)) for key in self.keys)  # the log does not say which key
        if any(self._public.signed({**head, "signature": witness.signature, "key_id": each}) for each in ids):
            return None
        says = "the head in the log has a signature that is of no key that is known"
        return Finding(Kind.FORGED, says, witness.writer, witness.seq, time=witness.at)


def vouch_of(stored: Stored) -> Vouch | None:
    """What a head says; None where it cannot be read."""
    seq, own = stored.document.get("seq"), stored.document.get("hash")
    if not isinstance(seq, int) or not isinstance(own, str) or seq < 1:
        return None
    return Vouch(seq, own, "the head")


def read_witnesses(lines: Iterable[bytes]) -> list[Witness]:
    """Read the heads out of a log of JSON lines, whatever else stands in it, by writer and number.

    Text before a line's JSON is passed over. Raises ValueError, which names the line, for a head that cannot be read.
    """
    found: set[Witness] = set()
    for number, line in enumerate(lines, 1):
        if EVENT.encode() not in line:
            continue
        try:
            entry = orjson.loads(line[line.index(b"{") :])
        except ValueError:  # not JSON, or cut off
            entry = None
        if isinstance(entry, dict) and entry.get("event") != EVENT:
            continue  # it only speaks of one
        witness = _witness(entry)
        if witness is None:
            msg = f"line {number} tells of a head that cannot be read"
            raise ValueError(msg)
        found.add(witness)
    return sorted(found, key=lambda witness: (witness.writer, witness.seq))


def _witness(entry: object) -> Witness | None:
    if not isinstance(entry, dict):
        return None
    writer, seq, own = (entry.get(name) for name in ("writer", "seq", "hash"))
    signature, at = (entry.get(name) for name in ("signature", "at"))
    if not isinstance(writer, str) or not isinstance(seq, int) or seq < 1:
        return None
    if not isinstance(own, str) or len(own) != _HASH_DIGITS:
        return None
    return Witness(
        writer, seq, own, signature if isinstance(signature, str) else None, at if isinstance(at, str) else None
    )
