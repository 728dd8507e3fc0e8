"""Addresses in what servers said: every form that quotes one is taken out, and nothing else."""

import time
import timeit

import pytest

from schemas.audit import MAX_REPLY_CHARS
from worker.delivery.outcome_rules import FAULT_RULES, REPLY_RULES
from worker.delivery.quoted import (
    reason_without_addresses,
    reply_without_addresses,
    without_addresses,
    without_own,
)

BOB = "Bob.Tables@dev.acme.example"
TAGGED = "bob.tables+news=a@dev.acme.example"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("5.1.1 <bob.tables@dev.acme.example>: unknown", "5.1.1 <recipient>: unknown"),
        ("BOB.TABLES@DEV.ACME.EXAMPLE does not exist.", "<recipient> does not exist."),
        ("no mailbox for Bob.Tables@dev.acme.example.", "no mailbox for <recipient>."),
        ("rcpt=bob.tables@dev.acme.example; denied", "rcpt=<recipient>; denied"),
        ("rfc822;bob.tables@dev.acme.example", "rfc822;<recipient>"),
        ("see https://help.example/?r=bob.tables%40dev.acme.example", "see https://help.example/?r=<recipient>"),
        ("bounces to bob.tables=dev.acme.example", "bounces to <recipient>"),
        ('"bob.tables"@dev.acme.example unknown', "<recipient> unknown"),
        ("user bob.tables unknown", "user <recipient> unknown"),
        ("user BOB.TABLES's mailbox is full", "user <recipient>'s mailbox is full"),
        ("2.0.0 Ok: queued as 4YbHn32", "2.0.0 Ok: queued as 4YbHn32"),
        ("bobby.tables is another word", "bobby.tables is another word"),
        ("", ""),
    ],
)
def test_the_recipients_own_address_goes_in_every_form(said, kept):
    assert without_addresses(said, BOB) == kept


@pytest.mark.parametrize(
    "said",
    [
        "bob.tables+2Bnews+3Da@dev.acme.example",
        "BOB.TABLES+2bNEWS+3dA@DEV.ACME.EXAMPLE",
        "bob.tables+news=a@dev.acme.example",
        "bob.tables%2Bnews%3Da%40dev.acme.example",
        "bob.tables+news=a",
        "bob.tables",
    ],
)
def test_also_as_xtext_percent_encoded_and_without_its_tag(said):
    assert without_addresses(f"550 {said} unknown", TAGGED) == "550 <recipient> unknown"


def test_an_international_domain_goes_as_it_is_written_and_as_it_is_sent():
    own = "bob@xn--bcher-kva.example"
    assert without_addresses("bob@bücher.example or bob@xn--bcher-kva.example", own) == "<recipient> or <recipient>"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("carol@example.org and <dave@example.net> too", "<address> and <address> too"),
        ("bigbob.tables@dev.acme.example", "<address>"),
        ("bob.tables@dev.acme.example.org", "<address>"),
        ("return path bounce+bob.tables=dev.acme.example@relay.example", "return path <address>"),
        ("carol%40example.org", "<address>"),
        ('"carol smith"@example.org', "<address>"),
        ("carol@[192.0.2.1]", "<address>"),
        ("carol@", "<address>"),
        ("@relay.example:carol@example.org", "@relay.example:<address>"),
    ],
)
def test_other_addresses_may_be_other_recipients(said, kept):
    assert without_addresses(said, BOB) == kept


def test_the_mails_own_id_is_no_address():
    said = "<0123abcd@mail.acme.example> Queued mail for <carol@example.org>"
    kept = "<0123abcd@mail.acme.example> Queued mail for <address>"
    assert without_addresses(said, BOB, kept="<0123abcd@mail.acme.example>") == kept


def test_a_local_part_of_two_letters_is_too_common_a_word():
    assert without_addresses("it is in use: <it@x.example>", "it@x.example") == "it is in use: <recipient>"


def test_a_local_part_that_is_our_own_word_for_it_is_not_taken_apart():
    assert (
        without_addresses("<recipient@x.example> or recipient", "recipient@x.example") == "<recipient> or <recipient>"
    )


def test_an_address_that_the_end_of_the_reply_cut_off_goes_too():
    said = ("x" * 500 + " bob.tables@dev.acme.example")[:MAX_REPLY_CHARS]
    assert said.endswith("bob.tables@")
    assert "bob" not in reply_without_addresses(said, BOB, None)
    shorter = ("x" * 505 + " bob.tables@dev.acme.example")[:MAX_REPLY_CHARS]
    assert shorter.endswith("bob.ta")
    assert "bob" not in reply_without_addresses(shorter, BOB, None)


def test_a_reply_never_grows_beyond_what_a_record_takes():
    said = ("bob " * 200)[:MAX_REPLY_CHARS]
    assert len(reply_without_addresses(said, "bob@x.example", None)) == MAX_REPLY_CHARS


@pytest.mark.parametrize("rule", [*REPLY_RULES, *FAULT_RULES], ids=lambda rule: rule.name)
def test_our_own_words_in_a_reason_stay_whatever_the_local_part_is(rule):
    """Whoever is shown a record is shown it by these words: a recipient named like one must not change them."""
    own = f"{rule.name.split('-')[0]}@x.example"
    word = f"{rule.reason.split()[1].strip('.,')}@x.example"
    reason = f"{rule.name}: {rule.reason}"
    assert reason_without_addresses(reason, own) == reason
    assert reason_without_addresses(reason, word) == reason
    resting = f"resting: tried again later ({rule.name})"
    assert reason_without_addresses(resting, own) == resting


def test_the_detail_behind_a_reason_is_the_servers_and_goes():
    rule = REPLY_RULES[0]
    reason = f"{rule.name}: {rule.reason} (bob.tables is not carol@example.org)"
    assert reason_without_addresses(reason, BOB) == f"{rule.name}: {rule.reason} (<recipient> is not <address>)"


def test_forgetting_one_leaves_the_others():
    said = "<bob.tables@dev.acme.example> and carol@example.org; bob.tables"
    assert without_own(said, BOB, words=False) == "<recipient> and carol@example.org; bob.tables"
    assert without_own(said, BOB, words=True) == "<recipient> and carol@example.org; <recipient>"


@pytest.mark.parametrize(
    "piece", ["a", "a@", "a%", "a.b%40", "+40", "%40", '"', '"a', "<", "a+", "@", "bob.tables", "="]
)
def test_no_reply_of_a_hostile_server_costs_more_than_a_moment(piece):
    said = (piece * MAX_REPLY_CHARS)[:MAX_REPLY_CHARS]
    without_addresses(said, BOB)  # compiles
    assert min(timeit.repeat(lambda: without_addresses(said, BOB), timer=time.process_time, number=1, repeat=3)) < 0.05
