"""What a reader of the config topic knows, as a state that only messages change.

Versions decide, never the order of arrival: for each (scope, name) the highest version counts, and of
a put and a delete with the same version the delete. A delete is remembered for good, as the store
remembers it; that is one number for each name that ever was.

A snapshot repairs in two ways. It holds the deletes of the store, which outrank what they deleted. And
once it is whole, what it leaves out and was last heard of before it began is dropped: the store was
read after the beginning was published, so it did not have that any more. What was published while the
snapshot was made stands behind its beginning and stays. A snapshot without its end, or with fewer
changes than its end counts, drops nothing.

A position is the message's place in the topic: a number that grows from message to message.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.config_change import (
    Changes,
    Delete,
    Feature,
    Marker,
    Message,
    PublishedConfig,
    Put,
    SnapshotBegin,
    SnapshotEnd,
    is_reference,
)
from schemas.smtp_config import Scope, ScopeLevel, SmtpConfig, label
from worker.control.references import OpenSecret, open_for
from worker.delivery.ports import ScopedConfigs
from worker.errors import SecretKeyMissing, SecretUnreadable

# Publishers that died in the middle leave a beginning without an end behind.
MAX_OPEN_SNAPSHOTS = 16
MAX_ENDED_SNAPSHOTS = 1000
# The same version sealed anew, after the keys were changed.
_MAX_SEALINGS = 4

_Key = tuple[Scope, str | None]  # None: the scope's feature


class _Sealed(NamedTuple):
    """The secrets of one put: password and signing key."""

    password: str | None
    dkim_key: str | None

    @property
    def refers(self) -> bool:
        return self.password is not None and is_reference(self.password)

    def opened(self, scope: Scope, open_secret: OpenSecret) -> list[str | None]:
        return [None if each is None else open_for(scope, each, open_secret) for each in self]


@dataclass(slots=True)
class _Known:
    """One (scope, name). A record is kept as its JSON, a fifth of what it takes as an object, until its first use."""

    version: int
    position: int
    order: int = 0
    fallback: bool = False
    packed: bytes | None = None  # None: deleted
    sealings: tuple[_Sealed, ...] = ()
    opened: SmtpConfig | None = None

    @property
    def lives(self) -> bool:
        return self.packed is not None

    def open(self, scope: Scope, open_secret: OpenSecret) -> SmtpConfig | None:
        """The record, opened at its first use; None where it is deleted.

        What a reference leads to may have changed: it is asked for at each use, and `open_secret` knows how often
        to look. The record stays the same object while its secrets do.
        """
        refers = any(each.refers for each in self.sealings)
        if self.packed is not None and (self.opened is None or refers):
            secrets = _first_opened(self.sealings, scope, open_secret) if self.sealings else (None, None)
            if self.opened is None or secrets != _secrets_of(self.opened):
                self.opened = PublishedConfig.model_validate_json(self.packed).opened(*secrets)
        return self.opened


@dataclass(slots=True)
class _KnownFeature:
    version: int
    position: int
    on: bool


@dataclass(slots=True)
class _OpenSnapshot:
    began: int
    seen: set[_Key] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """A snapshot has ended: whether all of it was read, and how many things it made go away."""

    snapshot: str
    complete: bool
    dropped: int = 0


class KnownConfigs:
    """The records, deletes and features that the messages so far amount to."""

    def __init__(self) -> None:
        """Know nothing."""
        self._records: dict[Scope, dict[str, _Known]] = {}
        self._ranks: dict[Scope, tuple[str, ...]] = {}
        self._features: dict[Scope, _KnownFeature] = {}
        self._snapshots: dict[str, _OpenSnapshot] = {}
        self._ended: deque[str] = deque(maxlen=MAX_ENDED_SNAPSHOTS)
        self.snapshots_read = 0

    def __len__(self) -> int:
        """How many records there are; deleted ones don't count."""
        return sum(known.lives for names in self._records.values() for known in names.values())

    def apply(self, message: Message, position: int) -> SnapshotRead | None:
        """Take one message in; what it says of a snapshot's end is returned."""
        match message:
            case Changes():
                self._apply_changes(message, position)
            case SnapshotBegin():
                self._begin(message.snapshot, position)
            case SnapshotEnd():
                return self._end(message)
            case Marker():
                pass
        return None

    def configs_for(self, scope: Scope, open_secret: OpenSecret) -> ScopedConfigs:
        """The default record of each scope in the lineage, the fallbacks of the one that sends, and its feature.

        An unreadable password is an error where its record would be used; a record that another one
        outranks, a fallback, or one of an org whose feature is off is left out instead.
        """
        feature = self._features.get(scope)
        enabled = feature is not None and feature.on
        ranked = {wider: names for wider in scope.lineage() if (names := self._ranked(wider))}
        used = next((each for each in ranked if enabled or each.level is not ScopeLevel.ORG), None)
        found = {
            wider: self._open(wider, names[0], open_secret, needed=wider == used) for wider, names in ranked.items()
        }
        records = {wider: config for wider, config in found.items() if config}
        behind = () if used is None else self._fallbacks(used, ranked[used][1:], open_secret)
        return ScopedConfigs(records, enabled, {used: behind}) if used and behind else ScopedConfigs(records, enabled)

    def _fallbacks(self, scope: Scope, names: Sequence[str], open_secret: OpenSecret) -> tuple[SmtpConfig, ...]:
        marked = [name for name in names if self._records[scope][name].fallback]
        opened = [self._open(scope, name, open_secret, needed=False) for name in marked]
        return tuple(each for each in opened if each is not None)

    def _open(self, scope: Scope, name: str, open_secret: OpenSecret, *, needed: bool) -> SmtpConfig | None:
        try:
            return self._records[scope][name].open(scope, open_secret)
        except SecretUnreadable as error:
            if needed:
                msg = f"{label(scope, name)}: {error}"
                raise SecretUnreadable(msg) from None
        except SecretKeyMissing:
            if needed:
                raise
        return None

    def _ranked(self, scope: Scope) -> tuple[str, ...]:
        """The names of the scope's records, its default first; each mail asks, so they are put in order once."""
        names = self._records.get(scope)
        if names is None:
            return ()
        ranked = self._ranks.get(scope)
        if ranked is None:
            living = sorted((known.order, name) for name, known in names.items() if known.lives)
            ranked = self._ranks[scope] = tuple(name for _, name in living)
        return ranked

    def _apply_changes(self, message: Changes, position: int) -> None:
        snapshot = self._snapshots.get(message.snapshot) if message.snapshot else None
        for change in message.items:
            match change:
                case Put():
                    self._put(change, position)
                case Delete():
                    self._delete(change, position)
                case Feature():
                    self._set_feature(change, position)
            if snapshot is not None:
                snapshot.seen.add(_key(change))

    def _put(self, put: Put, position: int) -> None:
        names = self._records.setdefault(put.scope, {})
        known = names.get(put.name)
        sealed = _Sealed(put.secret, put.dkim_secret)
        sealings = (sealed,) if any(sealed) else ()
        if known is None or put.version > known.version:
            packed = put.config.model_dump_json().encode()
            names[put.name] = _Known(put.version, position, put.order, put.fallback, packed, sealings)
            self._ranks.pop(put.scope, None)
        elif put.version == known.version and known.lives:
            known.position = max(known.position, position)
            if sealings and sealed not in known.sealings:
                known.sealings = (*known.sealings, sealed)[-_MAX_SEALINGS:]

    def _delete(self, delete: Delete, position: int) -> None:
        names = self._records.setdefault(delete.scope, {})
        known = names.get(delete.name)
        if known is None or delete.version >= known.version:
            names[delete.name] = _Known(delete.version, position)
            self._ranks.pop(delete.scope, None)

    def _set_feature(self, feature: Feature, position: int) -> None:
        known = self._features.get(feature.scope)
        if known is None or feature.version > known.version:
            self._features[feature.scope] = _KnownFeature(feature.version, position, feature.org_smtp)
        elif feature.version == known.version:
            known.position = max(known.position, position)

    def _begin(self, snapshot: str, position: int) -> None:
        # A mark that stands twice: the first beginning is the stricter one, and an end is final.
        if snapshot in self._snapshots or snapshot in self._ended:
            return
        self._snapshots[snapshot] = _OpenSnapshot(position)
        while len(self._snapshots) > MAX_OPEN_SNAPSHOTS:
            del self._snapshots[next(iter(self._snapshots))]

    def _end(self, end: SnapshotEnd) -> SnapshotRead | None:
        if end.snapshot in self._ended:
            return None
        snapshot = self._snapshots.get(end.snapshot)
        if snapshot is None or len(snapshot.seen) != end.count:
            return SnapshotRead(end.snapshot, complete=False)
        del self._snapshots[end.snapshot]
        self._ended.append(end.snapshot)
        self.snapshots_read += 1
        return SnapshotRead(end.snapshot, complete=True, dropped=self._drop_absent(snapshot))

    def _drop_absent(self, snapshot: _OpenSnapshot) -> int:
        """Forget altogether, versions too: the right store's snapshot may follow that of a wrong one."""
        before = len(self) + len(self._features)
        self._ranks.clear()
        for scope, names in self._records.items():
            self._records[scope] = {
                name: known
                for name, known in names.items()
                if not known.lives or known.position >= snapshot.began or (scope, name) in snapshot.seen
            }
        self._features = {
            scope: feature
            for scope, feature in self._features.items()
            if feature.position >= snapshot.began or (scope, None) in snapshot.seen
        }
        return before - len(self) - len(self._features)


def _first_opened(sealings: tuple[_Sealed, ...], scope: Scope, open_secret: OpenSecret) -> list[str | None]:
    *older, newest = sealings
    try:
        return newest.opened(scope, open_secret)
    except SecretUnreadable:
        if not older:
            raise
        return _first_opened(tuple(older), scope, open_secret)


def _secrets_of(config: SmtpConfig) -> list[str | None]:
    return [None if each is None else each.get_secret_value() for each in (config.password, config.dkim_key)]


def _key(change: Put | Delete | Feature) -> _Key:
    return (change.scope, None) if isinstance(change, Feature) else (change.scope, change.name)
