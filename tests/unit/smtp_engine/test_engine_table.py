"""The engine's state table, row by row: what is said, what goes out, what the answers are."""

import pytest
from smtp_model import mail

from worker.delivery.ports import Fault, MailEnvelope, Phase, RenderedMessage
from worker.smtp.transaction import Capabilities, ConnectionClosing, Engine, Finished, LocalProtocolError

PIPELINING = Capabilities(pipelining=True)
LOCKSTEP = Capabilities()
CHUNKING = Capabilities(pipelining=True, chunking=True)
OPENED = b"250 ok\r\n250 ok\r\n354 go\r\n"


def sent(engine):
    return b"".join(engine.data_to_send())


def start(capabilities=PIPELINING, recipients=1, **options):
    """An engine whose first flight of message 0 has been handed out."""
    engine = Engine(capabilities, **options)
    assert engine.submit(0, *mail(0, recipients)) == []
    engine.flight = sent(engine)
    return engine


def shown(events):
    """Finished messages as {token: [(phase, code or fault), ...]}."""
    return {
        event.token: [(a.phase.value, a.fault.value if a.fault else a.reply.code) for a in event.answers.values()]
        for event in events
        if isinstance(event, Finished)
    }


def opening(token):
    return f"MAIL FROM:<m{token}@from.test>\r\nRCPT TO:<r0.m{token}@to.test>\r\nDATA\r\n".encode()


def content(token):
    return mail(token)[1].content + b".\r\n"


def test_with_pipelining_mail_rcpt_and_data_are_one_flight_and_the_content_waits_for_354():
    engine = start()
    assert engine.flight == opening(0)
    assert engine.receive(b"250 ok\r\n250 ok\r\n") == []
    assert sent(engine) == b""
    assert engine.receive(b"354 go\r\n") == []
    assert sent(engine) == content(0)
    (event,) = engine.receive(b"250 2.0.0 queued as 4F1\r\n")
    assert shown([event]) == {0: [("final", 250)]}
    assert event.answers["r0.m0@to.test"].reply.text == "2.0.0 queued as 4F1"
    assert engine.idle


def test_a_message_in_hand_travels_with_the_content_of_the_one_before():
    engine = start()
    engine.receive(OPENED)
    engine.submit(1, *mail(1))
    assert sent(engine) == content(0) + opening(1)
    assert shown(engine.receive(b"250 first\r\n" + OPENED)) == {0: [("final", 250)]}
    assert engine.can_submit
    assert sent(engine) == content(1)


def test_a_message_that_comes_late_still_goes_behind_the_unanswered_dot():
    engine = start()
    engine.receive(OPENED)
    sent(engine)
    engine.submit(1, *mail(1))
    assert sent(engine) == opening(1)
    assert not engine.can_submit


def test_without_overlap_no_message_is_taken_before_the_final_reply():
    engine = start(overlap=False)
    engine.receive(OPENED)
    assert not engine.can_submit
    sent(engine)
    assert not engine.can_submit
    engine.receive(b"250 ok\r\n")
    assert engine.can_submit


def test_without_pipelining_each_command_waits_for_the_reply_to_the_last():
    engine = start(LOCKSTEP, recipients=2)
    flights = [engine.flight]
    for reply in (b"250 ok", b"250 ok", b"550 no", b"354 go"):
        assert not engine.can_submit
        engine.receive(reply + b"\r\n")
        flights.append(sent(engine))
    verbs = [flight.split(b"\r\n")[0].split(b":")[0] for flight in flights]
    assert verbs == [b"MAIL FROM", b"RCPT TO", b"RCPT TO", b"DATA", b"Subject"]
    assert shown(engine.receive(b"250 ok\r\n")) == {0: [("final", 250), ("rcpt", 550)]}


@pytest.mark.parametrize("replies", [[b"550 no"], [b"250 ok", b"450 no"]])
def test_without_pipelining_data_is_not_asked_for_when_nobody_was_accepted(replies):
    engine = start(LOCKSTEP)
    for reply in replies:
        sent(engine)
        events = engine.receive(reply + b"\r\n")
    assert list(shown(events)) == [0]
    assert sent(engine) == b"RSET\r\n"
    assert not engine.can_submit
    engine.receive(b"250 ok\r\n")
    assert engine.can_submit


def test_bdat_replaces_data_and_still_waits_for_the_rcpt_replies():
    engine = start(CHUNKING, chunking=True)
    assert engine.flight == opening(0).removesuffix(b"DATA\r\n")
    assert engine.awaiting is Phase.MAIL
    engine.receive(b"250 ok\r\n250 ok\r\n")
    engine.submit(1, *mail(1))
    chunk = b"BDAT %d LAST\r\n" % len(mail(0)[1].content) + mail(0)[1].content
    assert sent(engine) == chunk + b"RSET\r\n" + opening(1).removesuffix(b"DATA\r\n")
    assert shown(engine.receive(b"452 full\r\n250 reset\r\n250 ok\r\n550 no\r\n")) == {
        0: [("final", 452)],
        1: [("rcpt", 550)],
    }
    assert sent(engine) == b"RSET\r\n"


def test_a_refused_chunk_with_nothing_behind_it_is_followed_by_rset():
    engine = start(CHUNKING, chunking=True)
    engine.receive(b"250 ok\r\n250 ok\r\n")
    sent(engine)
    engine.receive(b"552 no\r\n")
    assert sent(engine) == b"RSET\r\n"


@pytest.mark.parametrize(
    ("case", "replies", "answers"),
    [
        ("MAIL refused", b"550 m\r\n503 r\r\n503 r\r\n503 d\r\n", [("mail", 550), ("mail", 550)]),
        ("MAIL refused, RCPT taken all the same", b"450 m\r\n250 r\r\n250 r\r\n554 d\r\n", [("mail", 450)] * 2),
        ("all RCPT refused", b"250 m\r\n550 r\r\n450 r\r\n554 d\r\n", [("rcpt", 550), ("rcpt", 450)]),
        ("DATA refused", b"250 m\r\n250 r\r\n550 r\r\n451 d\r\n", [("data", 451), ("rcpt", 550)]),
    ],
)
def test_a_transaction_without_content_is_answered_and_followed_by_rset_before_the_next(case, replies, answers):
    engine = start(recipients=2)
    assert shown(engine.receive(replies)) == {0: answers}
    engine.submit(1, *mail(1))
    assert sent(engine) == b"RSET\r\n" + opening(1)


def test_refused_recipients_keep_their_reply_and_the_others_get_the_final_one():
    engine = start(recipients=3)
    engine.receive(b"250 m\r\n250 r\r\n452 4.5.3 too many\r\n251 forwarded\r\n354 go\r\n")
    assert sent(engine) == content(0)
    assert shown(engine.receive(b"554 spam\r\n")) == {0: [("final", 554), ("rcpt", 452), ("final", 554)]}
    assert sent(engine) == b""


def test_354_with_no_recipient_accepted_is_ended_by_a_lone_dot():
    engine = start()
    assert engine.receive(b"250 m\r\n550 r\r\n354 go\r\n") == []
    engine.submit(1, *mail(1))
    assert sent(engine) == b".\r\nRSET\r\n" + opening(1)
    assert shown(engine.receive(b"554 nobody\r\n250 reset\r\n" + OPENED)) == {0: [("rcpt", 550)]}
    assert sent(engine) == content(1)


def test_354_after_a_refused_mail_and_an_accepted_rcpt_ends_the_connection_without_a_dot():
    engine = start()
    assert shown(engine.receive(b"550 m\r\n250 r\r\n354 go\r\n")) == {0: [("mail", 550)]}
    assert engine.closed
    assert sent(engine) == b""


@pytest.mark.parametrize(
    ("case", "replies", "answers"),
    [
        ("MAIL", b"421 bye\r\n", [("mail", 421)] * 2),
        ("first RCPT", b"250 m\r\n421 bye\r\n", [("rcpt", 421)] * 2),
        ("second RCPT, the first refused", b"250 m\r\n550 r\r\n421 bye\r\n", [("rcpt", 550), ("rcpt", 421)]),
        ("second RCPT, the first accepted", b"250 m\r\n250 r\r\n421 bye\r\n", [("rcpt", 421)] * 2),
        ("DATA", b"250 m\r\n250 r\r\n550 r\r\n421 bye\r\n", [("data", 421), ("rcpt", 550)]),
        ("RCPT, MAIL refused", b"550 m\r\n421 bye\r\n", [("mail", 550)] * 2),
        ("nothing, the content not yet out", b"250 m\r\n250 r\r\n550 r\r\n354 go\r\n421 bye\r\n", [("body", 421), ("rcpt", 550)]),
    ],
)  # fmt: skip
def test_421_answers_the_command_it_replies_to_and_ends_the_connection(case, replies, answers):
    engine = start(recipients=2)
    *_, closing = events = engine.receive(replies)
    assert shown(events) == {0: answers}
    assert isinstance(closing, ConnectionClosing)
    assert closing.reply.code == 421
    assert engine.closed
    assert not engine.can_submit
    assert engine.receive(b"250 late\r\n") == engine.connection_lost() == []


@pytest.mark.parametrize(
    ("replies", "answers"),
    [
        (b"421 bye\r\n", {0: [("final", 421)], 1: [("mail", "lost")]}),
        (b"250 ok\r\n421 bye\r\n", {0: [("final", 250)], 1: [("mail", 421)]}),
        (b"250 ok\r\n250 m\r\n250 r\r\n421 bye\r\n", {0: [("final", 250)], 1: [("data", 421)]}),
    ],
)
def test_421_to_one_message_of_a_shared_flight_is_not_the_answer_to_the_other(replies, answers):
    engine = start()
    engine.receive(OPENED)
    engine.submit(1, *mail(1))
    sent(engine)
    assert shown(engine.receive(replies)) == answers


def test_421_on_an_idle_connection_only_ends_it():
    engine = Engine(PIPELINING)
    (event,) = engine.receive(b"421 4.4.2 idle too long\r\n")
    assert event.reply.text == "4.4.2 idle too long"
    assert engine.closed


def test_421_that_crossed_an_unsent_command_does_not_answer_it():
    engine = start()
    assert shown(engine.receive(b"421 idle\r\n", len(opening(0)))) == {0: [("mail", "lost")]}


@pytest.mark.parametrize("state", ["idle", "submitted", "ready", "unsent"])
def test_a_reply_where_none_is_due_ends_the_connection_and_accepts_nothing(state):
    engine = Engine(PIPELINING)
    if state != "idle":
        engine.submit(0, *mail(0))
    if state in {"ready", "unsent"}:
        sent(engine)
    if state == "ready":
        engine.receive(OPENED)
    events = engine.receive(b"250 what for\r\n", len(opening(0)) if state == "unsent" else 0)
    assert isinstance(events[-1], ConnectionClosing)
    phase = "body" if state == "ready" else "mail"
    assert shown(events) == ({} if state == "idle" else {0: [(phase, "protocol")]})


def test_content_refused_before_its_dot_left_is_refused_and_the_connection_ends():
    engine = start()
    engine.receive(OPENED)
    sent(engine)
    events = engine.receive(b"552 too big\r\n", unsent_bytes=20)
    assert shown(events) == {0: [("final", 552)]}
    assert isinstance(events[-1], ConnectionClosing)


@pytest.mark.parametrize(
    ("before", "reply", "answer"),
    [
        (b"", b"354 early", ("mail", "protocol")),
        (b"250 m\r\n", b"334 AUTH?", ("rcpt", "protocol")),
        (b"250 m\r\n250 r\r\n", b"250 DATA is fine", ("data", "protocol")),
        (b"250 m\r\n250 r\r\n", b"399 huh", ("data", "protocol")),
        (OPENED, b"354 again", ("final", "protocol")),
        (OPENED, b"hello", ("final", "protocol")),
    ],
)
def test_a_reply_out_of_place_ends_the_connection_in_doubt_only_behind_a_dot(before, reply, answer):
    engine = start()
    engine.receive(before)
    sent(engine)
    assert shown(engine.receive(reply + b"\r\n")) == {0: [answer]}
    assert engine.closed


def test_a_refused_rset_ends_the_connection_before_any_content():
    engine = start()
    engine.receive(b"250 m\r\n550 r\r\n554 d\r\n")
    engine.submit(1, *mail(1))
    sent(engine)
    assert shown(engine.receive(b"502 RSET?\r\n" + OPENED)) == {1: [("mail", "protocol")]}
    assert sent(engine) == b""


@pytest.mark.parametrize(
    ("unsent", "phase"),
    [(0, "final"), (1, "final"), (2, "final"), (3, "body"), (4, "body"), (30, "body")],
)
@pytest.mark.parametrize("ending", ["connection_lost", "timeout"])
def test_a_lost_message_is_in_doubt_exactly_when_its_dot_may_have_left(unsent, phase, ending):
    engine = start()
    engine.receive(OPENED)
    sent(engine)
    assert engine.awaiting is Phase.FINAL
    fault = "lost" if ending == "connection_lost" else "timeout"
    assert shown(getattr(engine, ending)(unsent)) == {0: [(phase, fault)]}


def test_what_was_never_handed_out_was_never_sent():
    engine = start()
    engine.receive(OPENED)
    engine.submit(1, *mail(1))
    assert shown(engine.connection_lost()) == {0: [("body", "lost")], 1: [("mail", "lost")]}


def test_the_unsent_commands_of_the_next_message_do_not_excuse_a_dot_that_left():
    engine = start()
    engine.receive(OPENED)
    engine.submit(1, *mail(1))
    sent(engine)
    assert shown(engine.connection_lost(len(opening(1)))) == {0: [("final", "lost")], 1: [("mail", "lost")]}


def test_a_chunk_is_in_doubt_only_when_its_last_octet_left():
    for unsent, phase in ((0, "final"), (1, "body")):
        engine = start(CHUNKING, chunking=True)
        engine.receive(b"250 ok\r\n250 ok\r\n")
        sent(engine)
        assert shown(engine.connection_lost(unsent)) == {0: [(phase, "lost")]}


@pytest.mark.parametrize(("replies", "phase"), [(b"", "mail"), (b"250 m\r\n", "rcpt"), (b"250 m\r\n250 r\r\n", "data")])
def test_before_the_content_a_loss_names_the_reply_that_was_due(replies, phase):
    engine = start()
    engine.receive(replies)
    assert engine.awaiting.value == phase
    assert shown(engine.connection_lost()) == {0: [(phase, "lost")]}
    assert engine.awaiting is None


def test_quit_and_reset_are_for_idle_connections():
    engine = start()
    for ask in (engine.quit, engine.reset):
        with pytest.raises(LocalProtocolError):
            ask()
    engine.receive(OPENED)
    sent(engine)
    engine.receive(b"250 ok\r\n")
    engine.reset()
    assert sent(engine) == b"RSET\r\n"
    engine.receive(b"250 ok\r\n")
    engine.quit()
    assert not engine.can_submit
    assert sent(engine) == b"QUIT\r\n"
    (event,) = engine.receive(b"221 bye\r\n")
    assert (event.reply.code, engine.closed) == (221, True)


@pytest.mark.parametrize(
    ("case", "capabilities", "options", "message", "fault"),
    [
        ("size", Capabilities(size=True, max_size=5), {}, {}, Fault.TOO_LARGE),
        ("headers beyond ASCII", LOCKSTEP, {}, {"smtputf8": True}, Fault.SMTPUTF8_NOT_OFFERED),
        ("eight bit", LOCKSTEP, {}, {"eight_bit": True}, Fault.EIGHT_BIT_NOT_OFFERED),
        ("REQUIRETLS", LOCKSTEP, {"require_tls": True}, {}, Fault.TLS_NOT_OFFERED),
    ],
)
def test_what_the_server_cannot_take_is_answered_without_a_byte_sent(case, capabilities, options, message, fault):
    engine = Engine(capabilities, **options)
    message = RenderedMessage(b"Subject: x\r\n\r\n", "<x@y>", **message)
    (event,) = engine.submit("token", MailEnvelope("a@b", ("c@d", "e@f")), message)
    assert {(answer.phase, answer.fault) for answer in event.answers.values()} == {(Phase.MAIL, fault)}
    assert set(event.answers) == {"c@d", "e@f"}
    assert (sent(engine), engine.can_submit) == (b"", True)


def test_an_address_beyond_ascii_needs_smtputf8_even_where_the_headers_do_not():
    envelope = MailEnvelope("a@b", ("jürgen@d",))
    message = mail(0)[1]
    assert Engine(PIPELINING).submit(0, envelope, message)[0].answers["jürgen@d"].fault is Fault.SMTPUTF8_NOT_OFFERED


def test_mail_carries_the_parameters_that_were_offered_and_are_needed():
    capabilities = Capabilities(size=True, max_size=9000, eight_bit_mime=True, smtputf8=True, require_tls=True)
    engine = Engine(capabilities, require_tls=True)
    message = RenderedMessage(b"Subject: \xc3\xbc\r\n\r\n.\r\n", "<x@y>", smtputf8=True, eight_bit=True)
    engine.submit(0, MailEnvelope("ü@b", ("c@d",)), message)
    assert sent(engine).decode() == "MAIL FROM:<ü@b> SIZE=18 BODY=8BITMIME SMTPUTF8 REQUIRETLS\r\n"


def test_the_null_reverse_path_a_quoted_local_part_and_a_repeated_recipient_are_sent_right():
    engine = Engine(PIPELINING)
    engine.submit(0, MailEnvelope("", ('"a b>"@c', "d@e", "d@e")), mail(0)[1])
    assert sent(engine) == b'MAIL FROM:<>\r\nRCPT TO:<"a b>"@c>\r\nRCPT TO:<d@e>\r\nDATA\r\n'
    assert list(shown(engine.connection_lost())[0]) == [("mail", "lost")] * 2


@pytest.mark.parametrize(
    "address",
    ["a@b\r\nRSET", "a@b\n", "a\x00@b", "a@b> SIZE=1", "<a@b", "a b@c", "", '"a\r\n"@b', '"a"b"@c', "a\x7f@b",
     "a@b\u2028", "a\x85@b", "a\ud800@b", '"a@b'],
)  # fmt: skip
def test_an_address_that_could_forge_a_command_is_the_callers_error_and_nothing_is_sent(address):
    engine = Engine(Capabilities(pipelining=True, smtputf8=True))
    with pytest.raises(LocalProtocolError):
        engine.submit(0, MailEnvelope("a@b", (address,)), mail(0)[1])
    if address:
        with pytest.raises(LocalProtocolError):
            engine.submit(0, MailEnvelope(address, ("a@b",)), mail(0)[1])
    assert (sent(engine), engine.can_submit) == (b"", True)


@pytest.mark.parametrize("body", [b"x", b"x\n", b"a\n.\r\n", b"a\r.\r\n", b"a\r\n.\n\r\n", b"", b"x\r\n\r"])
def test_content_that_is_not_canonical_is_the_callers_error(body):
    with pytest.raises(LocalProtocolError):
        Engine(PIPELINING).submit(0, MailEnvelope("a@b", ("c@d",)), RenderedMessage(body, "<x@y>"))


def test_no_recipient_and_no_turn_are_the_callers_errors():
    engine = Engine(PIPELINING)
    with pytest.raises(LocalProtocolError):
        engine.submit(0, MailEnvelope("a@b", ()), mail(0)[1])
    engine.submit(0, *mail(0))
    with pytest.raises(LocalProtocolError):
        engine.submit(1, *mail(1))


@pytest.mark.parametrize(
    ("body", "wire"),
    [
        (b"x\r\n", b"x\r\n.\r\n"),
        (b".\r\n", b"..\r\n.\r\n"),
        (b".x\r\n..\r\na.\r\n.", None),
        (b".x\r\n..\r\na.\r\n", b"..x\r\n...\r\na.\r\n.\r\n"),
        (b"\r\n.\r\n", b"\r\n..\r\n.\r\n"),
        (b"\r\n\r\n.\r\n.\r\n", b"\r\n\r\n..\r\n..\r\n.\r\n"),
    ],
)
def test_dots_at_line_starts_are_doubled_once(body, wire):
    engine = Engine(PIPELINING)
    if wire is None:
        with pytest.raises(LocalProtocolError):
            engine.submit(0, MailEnvelope("a@b", ("c@d",)), RenderedMessage(body, "<x@y>"))
        return
    engine.submit(0, MailEnvelope("a@b", ("c@d",)), RenderedMessage(body, "<x@y>"))
    sent(engine)
    engine.receive(OPENED)
    assert sent(engine) == wire


def test_a_large_content_is_handed_out_without_another_copy():
    engine = Engine(PIPELINING)
    content = b"x" * 70 + b"\r\n"
    content *= 5000
    engine.submit(0, MailEnvelope("a@b", ("c@d",)), RenderedMessage(content, "<x@y>"))
    sent(engine)
    engine.receive(OPENED)
    assert any(buffer is content for buffer in engine.data_to_send())
