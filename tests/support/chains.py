"""Are the chains of stored documents whole? Written for the tests, by the contract alone (`schemas.audit_chain`)."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from schemas.audit_chain import ProofKind, digest_of, genesis, link_hash, read_link


def faults_of(records: Iterable[Mapping[str, Any]], proofs: Iterable[Mapping[str, Any]] = ()) -> list[str]:
    """What is wrong with the chains, as sentences; `records` as the audit's search returns them."""
    proofs = list(proofs)
    places = _places(records, proofs)
    found = [fault for writer, numbers in places.items() for fault in _faults_of_one(writer, numbers)]
    for head in proofs:
        if head["kind"] == ProofKind.HEAD:
            place = places.get(head["writer"], {}).get(head["seq"])
            if place is None or place[0][1] != head["hash"]:
                found.append(f"{head['writer']}: its head says {head['seq']}, which is not there")
    return found


def lengths_of(records: Iterable[Mapping[str, Any]], proofs: Iterable[Mapping[str, Any]] = ()) -> dict[str, int]:
    """By writer, how many numbers there are, those of voids among them."""
    return {writer: len(numbers) for writer, numbers in _places(records, list(proofs)).items()}


Place = tuple[str, str, str]
"""Of a number: the previous hash, its own, and the digest of what it stands for."""


def _places(records: Iterable[Mapping[str, Any]], proofs: list[Mapping[str, Any]]) -> dict[str, dict[int, list[Place]]]:
    places: dict[str, dict[int, list[Place]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        link = read_link(record)
        if link is not None:
            written = {name: value for name, value in record.items() if name != "dead_letter"}
            places[link.writer][link.seq].append((link.prev, link.hash, digest_of(written)))
    for void in proofs:
        if void["kind"] == ProofKind.VOID:
            places[void["writer"]][void["seq"]].append((void["prev"], void["hash"], void["digest"]))
    return places


def _faults_of_one(writer: str, numbers: Mapping[int, list[Place]]) -> Iterable[str]:
    before = genesis(writer)
    for seq in range(1, max(numbers) + 1):
        if seq not in numbers:
            yield f"{writer}: {seq} is missing"
            return
        if len(numbers[seq]) > 1:
            yield f"{writer}: {seq} is there {len(numbers[seq])} times"
        prev, own, digest = numbers[seq][0]
        if prev != before:
            yield f"{writer}: {seq} does not follow the one before it"
        if own != link_hash(writer, seq, prev, digest):
            yield f"{writer}: {seq} was changed"
        before = own
