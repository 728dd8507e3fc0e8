"""The events in samples/ are what a user copies: each one parses, renders, and shows another kind."""

from pathlib import Path

import pytest
from message_events import SENDER, html, plain, read

from schemas.cloudevents import STRUCTURED, parse_event
from schemas.event import KINDS
from worker.message import render

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_parses_and_renders(path):
    sample = parse_event(path.read_bytes(), STRUCTURED)
    message = read(render(sample, SENDER))
    assert str(message["subject"])
    assert plain(message).strip()
    assert html(message).strip()


def test_there_is_a_sample_of_every_kind_and_every_scope():
    samples = [parse_event(path.read_bytes(), STRUCTURED) for path in SAMPLES]
    assert {sample.envelope.type for sample in samples} == set(KINDS)
    assert {str(sample.scope) for sample in samples} == {"controller", "partner:acme", "org:acme/dev"}
    assert len({sample.key for sample in samples}) == len(samples)
    assert (Path(__file__).parents[3] / "samples" / "password-reset.json") in SAMPLES
