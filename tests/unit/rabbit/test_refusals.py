"""What the broker's refusals are made into; the words are recorded from RabbitMQ 3.10.8."""

import pytest

from worker.errors import BrokerUnavailable, TopologyMismatch
from worker.rabbit import topology
from worker.rabbit.declaring import _says_missing, explained, explained_end
from worker.rabbit.side_channel import Refused

QUEUE = topology.QUEUES[-1]
IN = f"for queue '{QUEUE.name}' in vhost '/'"
OTHER = "PRECONDITION_FAILED - inequivalent arg"

REFUSALS = [
    (
        f"{OTHER} 'x-overflow' {IN}: received 'reject-publish' but current is 'drop-head'",
        "x-overflow is 'drop-head' and must be 'reject-publish' (else a full queue drops",
    ),
    (
        f"{OTHER} 'x-dead-letter-strategy' {IN}: received the value 'at-least-once' of type 'longstr' but current is none",
        "x-dead-letter-strategy is not set and must be 'at-least-once' (else events",
    ),
    (
        f"{OTHER} 'x-max-length' {IN}: received none but current is the value '5' of type 'signedint'",
        "x-max-length is '5' and must not be set; move what it holds",
    ),
    (
        f"{OTHER} 'x-dead-letter-exchange' {IN}: received '' but current is 'o'",
        "x-dead-letter-exchange is 'o' and must be '' (else",
    ),
    (
        f"PRECONDITION_FAILED - invalid arg 'x-dead-letter-strategy' {IN} of queue type rabbit_classic_queue",
        "RabbitMQ 3.10 or newer is needed",
    ),
]


@pytest.mark.parametrize(("words", "says"), REFUSALS)
def test_a_difference_names_argument_values_and_remedy(words: str, says: str) -> None:
    error = explained(QUEUE, Refused(406, words))
    assert isinstance(error, TopologyMismatch)
    assert f"queue {QUEUE.name}: " in str(error)
    assert says in str(error)
    assert "`postbote topology declare`" in str(error)


@pytest.mark.parametrize(
    ("code", "words", "says"),
    [
        (403, "ACCESS_REFUSED - access to queue 'x' in vhost '/' refused for user 'u'", "grant this user configure"),
        (405, "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'x'", "belongs to another connection"),
    ],
)
def test_a_refusal_has_a_remedy(code: int, words: str, says: str) -> None:
    error = explained(QUEUE, Refused(code, words))
    assert isinstance(error, TopologyMismatch)
    assert says in str(error)


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("NOT_FOUND - no queue 'postbote.config' in vhost '/'", True),
        ("NOT_FOUND - no exchange 'postbote.events' in vhost '/'", True),
        ("NOT_FOUND - home node 'a@b' of durable queue 'postbote.config' in vhost '/' is down or inaccessible", False),
        ("NOT_FOUND - queue 'postbote.parked' in vhost '/' process is stopped by supervisor", False),
    ],
)
def test_what_is_there_and_not_up_yet_is_not_missing(words: str, missing: bool) -> None:
    assert _says_missing(Refused(404, words)) is missing
    assert isinstance(explained(QUEUE, Refused(404, words)), BrokerUnavailable)


def test_any_other_refusal_may_pass() -> None:
    assert isinstance(explained(QUEUE, Refused(506, "RESOURCE_ERROR - no leader")), BrokerUnavailable)


FLAG_OFF = (
    "541 INTERNAL_ERROR - Cannot declare a queue 'queue 'q' in vhost '/'' of type 'rabbit_stream_queue' "
    "on node 'rabbit@a': the corresponding feature flag is disabled"
)


@pytest.mark.parametrize("words", [FLAG_OFF, "540 NOT_IMPLEMENTED - feature flag `stream_queue`"])
def test_a_feature_flag_that_is_off_is_an_error_with_the_command_that_helps(words: str) -> None:
    error = explained_end(BrokerUnavailable(words))
    assert isinstance(error, TopologyMismatch)
    assert "rabbitmqctl enable_feature_flag all" in str(error)


def test_a_connection_that_ends_otherwise_may_come_back() -> None:
    error = BrokerUnavailable("320 CONNECTION_FORCED - broker is shutting down")
    assert explained_end(error) is error
