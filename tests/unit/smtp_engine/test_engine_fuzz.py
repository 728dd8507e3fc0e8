"""Random servers, random networks: what the engine says agrees with what the server did."""

from itertools import cycle
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from smtp_model import FAULTS, GARBAGE, ModelServer, Truth, Witness, mail

from worker.delivery.ports import Phase
from worker.smtp.transaction import Capabilities, ConnectionClosing, Engine, Finished

# Speed is measured elsewhere; a slow example on a shared machine says nothing about the engine.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
BODIES = [b"Hello\r\n", b".\r\n..\r\n.x\r\n", b"\r\n.\r\n", b"RSET\r\nMAIL FROM:<m9@from.test>\r\n", b"a\r\n" * 40]


class World:
    """One connection after the other until every message is finished; no message is tried twice."""

    def __init__(self, messages, sizes, eager, **options):
        self.truth = Truth()
        self.waiting = []
        for token, (recipients, body) in enumerate(messages):
            envelope, message = mail(token, recipients, body)
            self.truth.contents[f"m{token}"] = message.content
            self.waiting.append((token, envelope, message))
        self.envelopes = {token: envelope for token, envelope, _ in self.waiting}
        self.sizes = cycle(sizes)
        self.eager = cycle(eager)
        self.options = options
        self.answers = {}

    def run(self, connections):
        for faults, cut_sent, cut_told in [*connections, ({}, None, None)]:
            self._connect(faults, cut_sent, cut_told)
            while self._turn():
                pass
            if not self.waiting:
                break

    def _connect(self, faults, cut_sent, cut_told):
        pipelining = self.options["pipelining"]
        capabilities = Capabilities(pipelining=pipelining, chunking=True)
        self.engine = Engine(capabilities, overlap=self.options["overlap"], chunking=self.options["chunking"])
        self.server = ModelServer(self.truth, faults, lenient_data=self.options["lenient_data"])
        self.witness = Witness(pipelining=pipelining)
        self.host = b""  # handed out, still in this host
        self.written = self.told = 0
        self.cut_sent, self.cut_told = cut_sent, cut_told

    def _turn(self):
        """One round of everything that can move; False when this connection is over."""
        moved = self._submit()
        self.host += self._hand_out()
        moved |= self._write(next(self.sizes)) | self._tell(next(self.sizes))
        if self.engine.closed:
            return False
        if self.written == self.cut_sent or self.told == self.cut_told or (self.server.closed and not self.server.out):
            self._settle(self.engine.connection_lost(len(self.host)))
            return False
        if moved:
            return True
        if self.engine.idle:
            assert not self.waiting
            return False
        assert self.server.silent, "neither side has anything to say"
        self._settle(self.engine.timeout(len(self.host)))
        return False

    def _submit(self):
        stuck = self.engine.idle and not self.host
        if self.waiting and self.engine.can_submit and (next(self.eager) or stuck):
            self._settle(self.engine.submit(*self.waiting.pop(0)))
            return True
        return False

    def _hand_out(self):
        data = b"".join(self.engine.data_to_send())
        self.witness.handed(data)
        return data

    def _write(self, size):
        size = min(size, len(self.host), size if self.cut_sent is None else self.cut_sent - self.written)
        data, self.host = self.host[:size], self.host[size:]
        self.written += size
        self.server.receive(data)
        return size > 0

    def _tell(self, size):
        size = min(size, size if self.cut_told is None else self.cut_told - self.told)
        data, self.server.out = self.server.out[:size], self.server.out[size:]
        self.told += len(data)
        self.witness.told(data)
        if data:
            self._settle(self.engine.receive(data, len(self.host)))
        return bool(data)

    def _settle(self, events):
        for event in events:
            if isinstance(event, Finished):
                assert event.token not in self.answers, "finished twice"
                self.answers[event.token] = event.answers
                self._check_doubt(event.answers.values())
            else:
                assert isinstance(event, ConnectionClosing)
                assert self.engine.closed

    def _check_doubt(self, answers):
        for answer in answers:
            if answer.fault and answer.phase is Phase.FINAL:
                assert self.witness.dot_at < self.written, "in doubt, though the dot never left"
            if answer.fault and answer.phase is Phase.BODY:
                assert self.witness.dot_at is None or self.witness.dot_at >= self.written or not self._dot_is_last()

    def _dot_is_last(self):
        """True where the last dot handed out still had no reply."""
        return len(self.witness.codes) < self.witness._sent

    def check(self):
        assert not self.truth.violations
        assert set(self.answers) == set(self.envelopes), "a message never finished"
        assert len(self.truth.accepted) == len(set(self.truth.accepted))
        for token, answers in self.answers.items():
            assert tuple(answers) == self.envelopes[token].recipients
            for recipient, answer in answers.items():
                self._check_answer(token, recipient, answer)

    def _check_answer(self, token, recipient, answer):
        delivered = recipient in self.truth.accepted
        if answer.phase is Phase.FINAL and answer.fault:
            return  # in doubt: either may be true
        assert delivered == (answer.phase is Phase.FINAL and answer.reply is not None and answer.reply.code == 250)
        assert (answer.reply is None) != (answer.fault is None)
        if answer.reply:
            said = answer.reply.text.split("\n")[-1]
            assert f"m{token}" in said, f"{recipient} was given the reply {said}"
            assert answer.phase is Phase.BODY or said.startswith(answer.phase.value)
            assert answer.phase is not Phase.RCPT or recipient.split("@")[0] in said or answer.reply.code == 421


OPTIONS = st.fixed_dictionaries(
    {name: st.booleans() for name in ("pipelining", "overlap", "chunking", "lenient_data")},
)
MESSAGES = st.lists(st.tuples(st.integers(1, 3), st.sampled_from(BODIES)), min_size=1, max_size=5)
CUT = st.none() | st.integers(1, 900)
SIZES = st.lists(st.sampled_from([1, 2, 7, 50, 5000, 5000]), min_size=1, max_size=6)
EAGER = st.lists(st.booleans(), min_size=1, max_size=5)


def faults(kinds):
    return st.dictionaries(st.integers(0, 20), st.sampled_from(kinds), max_size=4)


@settings(BUSY_MACHINE, max_examples=120)
@given(MESSAGES, SIZES, EAGER, OPTIONS, st.lists(st.tuples(faults(FAULTS), CUT, CUT), max_size=3))
def test_every_message_is_finished_once_and_as_the_server_saw_it(messages, sizes, eager, options, connections):
    world = World(messages, sizes, eager, **options)
    world.run(connections)
    world.check()


def random_world(random):
    """A world drawn evenly, where hypothesis prefers small and early: faults reach the later commands."""
    options = {name: random.random() < 0.5 for name in ("overlap", "chunking", "lenient_data")}
    messages = [(random.randint(1, 3), random.choice(BODIES)) for _ in range(random.randint(1, 6))]
    sizes = [random.choice([1, 2, 7, 50, 5000, 5000]) for _ in range(4)]
    eager = [random.random() < 0.7 for _ in range(5)]
    return World(messages, sizes, [*eager, True], pipelining=random.random() < 0.8, **options)


def random_connection(random):
    faults = {random.randint(0, 20): random.choice(FAULTS) for _ in range(random.randint(0, 4))}
    return (
        faults,
        random.choice([None, None, random.randint(1, 900)]),
        random.choice([None, None, random.randint(1, 400)]),
    )


@pytest.mark.parametrize("seed", range(10))
def test_the_same_holds_in_a_hundred_evenly_drawn_worlds(seed):
    random = Random(seed)
    for _ in range(100):
        world = random_world(random)
        world.run([random_connection(random) for _ in range(3)])
        world.check()


@settings(BUSY_MACHINE, max_examples=100)
@given(MESSAGES, SIZES, EAGER, OPTIONS, faults(["452", "552", "many lines", "bare"]))
def test_refusals_alone_never_end_the_connection(messages, sizes, eager, options, faults):
    world = World(messages, sizes, eager, **options)
    world.run([(faults, None, None)])
    world.check()
    assert not world.engine.closed
    assert all(answer.fault is None for answers in world.answers.values() for answer in answers.values())


REPLIES = st.sampled_from(
    [b"250 ok\r\n", b"354 go\r\n", b"550 no\r\n", b"421 bye\r\n", b"250-a\r\n", *GARBAGE.values()]
)


@settings(BUSY_MACHINE, max_examples=100)
@given(OPTIONS, st.lists(st.binary(max_size=20) | REPLIES, max_size=15))
def test_no_bytes_of_a_server_make_the_engine_fail_or_finish_a_message_twice(options, chunks):
    capabilities = Capabilities(pipelining=options["pipelining"], chunking=True)
    engine = Engine(capabilities, overlap=options["overlap"], chunking=options["chunking"])
    events, submitted = [], 0
    for chunk in chunks:
        if engine.can_submit:
            events += engine.submit(submitted, *mail(submitted))
            submitted += 1
        engine.data_to_send()
        events += engine.receive(chunk)
    events += engine.connection_lost()
    finished = [event.token for event in events if isinstance(event, Finished)]
    assert sorted(finished) == list(range(submitted))
    assert sum(isinstance(event, ConnectionClosing) for event in events) <= 1
    assert engine.awaiting is None
