"""What happened to one recipient of one event, from every side, for whoever has to find out why."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from tests.chaos.count import Evidence, Pair
from tests.chaos.world import World

_BEFORE_S = 10.0
_NOTES = 60


def tell(pair: Pair, evidence: Evidence, world: World) -> str:
    """The mails, the records, the queues, the kills and the workers' own lines, as text."""
    return "\n".join(_lines(pair, evidence, world))


def _lines(pair: Pair, evidence: Evidence, world: World) -> Iterator[str]:
    identity, recipient = pair
    event = evidence.published[identity]
    yield f"== {identity} to {recipient}, Message-ID {event.message_id}, hold={event.hold}"
    mails = [mail for mail in evidence.kept if mail.message_id == event.message_id and recipient in mail.recipients]
    for mail in mails:
        yield f"  mail    {mail.at:.3f} from {mail.ehlo} replied={mail.replied} content {mail.content_hash}"
    for record in sorted(evidence.records, key=lambda record: str(record["@timestamp"])):
        if record["event_id"] == identity and record.get("recipient") == recipient:
            flag = " possible_duplicate" if record.get("possible_duplicate") else ""
            said = f"{record['outcome']} attempt {record['attempt']}{flag}: {record.get('reason')}"
            yield f"  record  {record['@timestamp']} by {record.get('worker_id')}: {said}"
    for queue, ids in evidence.queued.items():
        if identity in ids:
            yield f"  queue   {queue}"
    for worker in world.workers:
        yield from (f"  {worker.name} {line}" for line in worker.lines_about(identity))
    began = min((mail.at for mail in mails), default=0.0) - _BEFORE_S
    yield "  done to it all: " + "; ".join([note for note in world.notes if float(note.split()[0]) >= began][:_NOTES])


def keep_logs(world: World, folder: Path) -> None:
    """Copy what the workers and the sink wrote, and what was done, to where it outlives the session."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "notes").write_text("\n".join(world.notes) + "\n")
    (folder / "kills.json").write_text("\n".join(json.dumps(asdict(kill)) for kill in world.kills) + "\n")
    for worker in world.workers:
        shutil.copy(worker.log, folder / f"{worker.name}.log")
    shutil.copy(world.sink.log, folder / "sink.log")
