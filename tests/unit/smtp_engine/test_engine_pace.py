"""Round trips a message, measured against the model server: what pipelining with overlap is for."""

import pytest
from smtp_model import ModelServer, Truth, mail

from worker.smtp.transaction import Capabilities, Engine, Finished

MESSAGES = 100


def flights(capabilities, **options):
    """How often bytes had to cross to the server until every message was finished."""
    truth, engine, waiting, finished, count = Truth(), Engine(capabilities, **options), list(range(MESSAGES)), 0, 0
    server = ModelServer(truth)
    while finished < MESSAGES:
        while waiting and engine.can_submit:
            envelope, message = mail(waiting[0])
            truth.contents[f"m{waiting[0]}"] = message.content
            engine.submit(waiting.pop(0), envelope, message)
        server.receive(b"".join(engine.data_to_send()))
        count += 1
        assert count <= 10 * MESSAGES, "the engine and the server go round in circles"
        told, server.out = server.out, b""
        finished += sum(isinstance(event, Finished) for event in engine.receive(told))
    assert len(truth.accepted) == MESSAGES
    assert not truth.violations
    return count


@pytest.mark.parametrize(
    ("capabilities", "options", "per_message"),
    [
        (Capabilities(pipelining=True), {}, 1.05),
        (Capabilities(pipelining=True, chunking=True), {"chunking": True}, 1.05),
        (Capabilities(pipelining=True), {"overlap": False}, 2.0),
        (Capabilities(), {}, 4.0),
    ],
)
def test_a_saturated_connection_needs_no_more_round_trips_than_its_mode_allows(capabilities, options, per_message):
    assert flights(capabilities, **options) <= per_message * MESSAGES
