"""The bench counts right: a small run of the real thing, and lost and doubled mails that it must show."""

import dataclasses
from pathlib import Path

import pytest

from tests.bench import events, measure
from tests.bench.ceiling import measure_ceiling
from tests.bench.contenders import POSTBOTE, Site
from tests.bench.measure import Result, judge
from tests.bench.sinks import postfix_sink, timed_sink

pytestmark = pytest.mark.alone

USED = measure.Used(seconds=1.0, cpu_s=0.5, peak_rss_mib=10.0, pss_mib=8.0)


@pytest.fixture
def batch(tmp_path: Path) -> events.Batch:
    return events.write_batch(tmp_path, "run0", 100)


@pytest.mark.parametrize(
    ("sentence", "arrive", "lost", "duplicates"),
    [
        ("every mail once is no error", lambda r: r, 0, 0),
        ("a mail that never came is lost", lambda r: r[1:], 1, 0),
        ("a second copy is an error", lambda r: [*r, r[0]], 0, 1),
        ("a second copy does not make up for a lost mail", lambda r: [*r[1:], r[1]], 1, 1),
        ("nothing at all is all lost", lambda _: [], 100, 0),
    ],
)
def test_what_the_sink_has_seen_is_judged_mail_by_mail(batch, sentence, arrive, lost, duplicates) -> None:
    result = judge("somebody", "smtp-sink", batch, arrive(sorted(batch.recipients)), USED)
    assert (result.lost, result.duplicates, result.errors) == (lost, duplicates, lost + duplicates), sentence


def test_an_accepted_mail_without_its_audit_record_is_an_error(batch) -> None:
    result = judge("somebody", "smtp-sink", batch, sorted(batch.recipients), USED)
    assert result.with_audit_of(100).errors == 0
    assert result.with_audit_of(97).errors == 3


def test_events_are_2_kb_and_their_recipients_unique(batch) -> None:
    assert {len(body) for body in batch.bodies()} <= set(range(events.SIZE - 2, events.SIZE + 3))
    assert len(batch.recipients) == 100


def test_json_has_the_fields_that_its_readers_use() -> None:
    assert {"name", "mails", "mails_per_s", "cpu_s_per_1000", "peak_rss_mib", "errors"} <= {
        field.name for field in dataclasses.fields(Result)
    }


def test_postbote_and_the_ceiling_lose_nothing_on_smtp_sink(amqp_url: str, tmp_path: Path) -> None:
    with postfix_sink() as sink:
        ceiling = measure_ceiling(sink, leg="smtp-sink", mails=500, run="run1")
        site = Site(amqp_url, sink.port, sink.ca_file, tmp_path)
        ours = measure.measure(POSTBOTE, site, sink, leg="smtp-sink", mails=200, run="run2")
    assert (ceiling.errors, ours.errors) == (0, 0)
    assert ours.cpu_s_per_1000 > 0
    assert 10 < ours.peak_rss_mib < 1000


def test_postbote_loses_nothing_over_starttls(amqp_url: str, tmp_path: Path) -> None:
    with timed_sink(tmp_path, "starttls", tls=True) as sink:
        site = Site(amqp_url, sink.port, sink.ca_file, tmp_path)
        ours = measure.measure(POSTBOTE, site, sink, leg="starttls", mails=200, run="run3")
        moments = [at for at, _ in sink.answers("run3")]
    assert ours.errors == 0
    assert moments == sorted(moments)
    assert len(moments) == 200
