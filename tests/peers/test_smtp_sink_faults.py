"""Postfix's smtp-sink with its own fault switches: the outcome of each, and that its dump agrees."""

import re
from dataclasses import dataclass

import pytest

from tests.peers.agreement import Delivery, Sender, disagreements, record_for, sender_for
from tests.services.smtp_sink import SmtpSink
from worker.delivery.ports import Ack, Later, Park
from worker.delivery.retry import RetryPolicy

TO = "ann@example.com"
# Of a hundred mails over three connections the last one waits for its turn as long as a busy machine takes.
PATIENT = RetryPolicy(budget_s=60, first_wait_s=0.01, doubt_wait_s=0.01)
# The switches last for as long as the sink runs, so every attempt meets them.
GIVEN_UP = ("deferred", "deferred")
TIER = "1m"
ACCEPTED = ("accepted",)
REFUSED = ("refused",)
FAULTY = ("config_fault",)
DOUBT = ("in_doubt",)


@dataclass(frozen=True)
class Case:
    """Switches, the ends that may be recorded, and the tier or the reason for which the event is set aside."""

    switches: str
    ends: tuple[tuple[str, ...], ...]
    aside: str | None = None

    def __str__(self) -> str:
        return self.switches or "none"

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(word.strip("'") for word in re.findall(r"'[^']*'|\S+", self.switches))


CASES = [
    Case("", (ACCEPTED,)),
    Case("-p", (ACCEPTED,)),
    # HELO only: Postbote speaks ESMTP or not at all, and a record that leads to such a server is at fault.
    Case("-e", (("config_fault", "config_fault"), ACCEPTED)),
    Case("-P", (("config_fault", "config_fault"), ACCEPTED)),  # the greeting of a Cisco PIX, which has no EHLO either
    Case("-8", (ACCEPTED,)),
    Case("-E", (ACCEPTED,)),
    Case("-h mx.example.com", (ACCEPTED,)),
    Case("-w 1", (ACCEPTED,)),
    Case("-W .:1", (ACCEPTED,)),
    Case("-H 1", (ACCEPTED,)),
    # -q: hang up without a reply.
    Case("-q connect", (GIVEN_UP,), TIER),
    Case("-q ehlo", (GIVEN_UP,), TIER),
    Case("-q mail", (GIVEN_UP,), TIER),
    Case("-q rcpt", (GIVEN_UP,), TIER),
    Case("-q data", (GIVEN_UP,), TIER),
    Case("-q .", (DOUBT,), "in_doubt"),
    # -Q: 421, then hang up.
    Case("-Q connect", (GIVEN_UP,), TIER),
    Case("-Q ehlo", (GIVEN_UP,), TIER),
    Case("-Q mail", (GIVEN_UP,), TIER),
    Case("-Q rcpt", (GIVEN_UP,), TIER),
    Case("-Q data", (GIVEN_UP,), TIER),
    Case("-Q .", (GIVEN_UP,), TIER),
    # -r: 4xx.
    Case("-r connect", (GIVEN_UP,), TIER),
    Case("-r mail", (GIVEN_UP,), TIER),
    Case("-r rcpt", (GIVEN_UP,), TIER),
    Case("-r data", (GIVEN_UP,), TIER),
    Case("-r .", (GIVEN_UP,), TIER),
    # -f: 5xx. The text is "500 5.3.0 Error: command failed", and 500 says that the command was not understood.
    Case("-f mail", (GIVEN_UP, REFUSED), None),
    Case("-f rcpt", (GIVEN_UP, REFUSED), None),
    Case("-f data", (GIVEN_UP, REFUSED), None),
    Case("-f .", (GIVEN_UP, REFUSED), None),
    # -B and -b: the same with words of one's own.
    Case("-f rcpt -B '550 5.1.1 No such user'", (REFUSED,)),
    Case("-f mail -B '550 5.7.1 Not you'", (REFUSED,)),
    Case("-f . -B '554 5.6.0 Not this'", (REFUSED,)),
    Case("-f mail -B '530 5.7.0 Must issue a STARTTLS command first'", (FAULTY,), "config_fault"),
    Case("-f connect -B '554 5.3.2 No service'", (("config_fault", "config_fault"),), TIER),
    Case("-r rcpt -b '450 4.2.0 Greylisted'", (GIVEN_UP,), TIER),
    Case("-r mail -b '421 4.3.2 Going away'", (GIVEN_UP,), TIER),
    Case("-r . -b '452 4.3.1 Disk full'", (GIVEN_UP,), TIER),
    # -A: 354, then 550 without reading on. Whether the 550 is read before any content went out (out of step: put
    # off), while it goes out (refused) or not at all (in doubt) is a race, which each attempt runs anew.
    Case("-A 0", (REFUSED, DOUBT, GIVEN_UP, ("deferred", *REFUSED), ("deferred", *DOUBT)), None),
    Case("-A 1", (REFUSED, DOUBT, GIVEN_UP, ("deferred", *REFUSED), ("deferred", *DOUBT)), None),
]


def taken(sink: SmtpSink) -> list[Delivery]:
    """The deliveries whose content the sink has dumped up to its end."""
    found = []
    for dump in sink.dumped():
        identity = re.search(rb"^Message-ID: *(\S+)", dump, re.MULTILINE | re.IGNORECASE)
        recipients = re.findall(rb"^X-Rcpt-Args: <(.*?)>", dump, re.MULTILINE)
        if identity and dump.endswith(b"\n\n"):
            found += [(identity[1].decode(), each.decode()) for each in recipients]
    return found


async def send(sink: SmtpSink, *recipients: str) -> tuple[Sender, object]:
    async with sender_for(record_for(sink.port)) as sender:
        settlement = await sender.send(*recipients, on_doubt="hold")
    return sender, settlement


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_each_switch_has_its_outcome(case: Case) -> None:
    with SmtpSink(case.arguments, dump=True) as sink:
        sender, settlement = await send(sink, TO)
    outcomes = tuple(sender.outcomes(TO))
    assert outcomes in case.ends
    if outcomes[-1] in ("accepted", "refused"):
        assert settlement == Ack()
    else:
        assert isinstance(settlement, Park | Later)
        assert case.aside in (None, settlement.reason if isinstance(settlement, Park) else settlement.tier.label)
    if outcomes[-1] == "accepted":
        assert taken(sink) == list(sender.deliveries("accepted"))


@pytest.mark.parametrize("lockstep", [(), ("-p",)], ids=["pipelined", "lockstep"])
async def test_a_hundred_mails_are_all_at_the_sink(lockstep: tuple[str, ...]) -> None:
    recipients = [f"rcpt-{n}@example.com" for n in range(100)]
    with SmtpSink(lockstep, dump=True) as sink:
        async with sender_for(record_for(sink.port, max_connections=3, timeout_s=30), PATIENT) as sender:
            assert set(await sender.send_many(recipients)) == {Ack()}
        held = taken(sink)
    assert disagreements(sender, held) == []
    assert len(held) == 100


async def test_every_recipient_of_a_mail_is_at_the_sink() -> None:
    recipients = [f"rcpt-{n}@example.com" for n in range(50)]
    with SmtpSink(dump=True) as sink:
        sender, settlement = await send(sink, *recipients)
        held = taken(sink)
    assert settlement == Ack()
    assert disagreements(sender, held) == []
    assert len(held) == 50
