"""The two settings of recipients: what they accept, what they say otherwise, and what follows from them."""

import pytest

from schemas.audit_query import AuditPage, AuditQuery
from schemas.audit_stats import StatsQuery
from worker.delivery.privacy import PLAIN, RecipientMode
from worker.errors import SettingsError
from worker.recipients import counting, finding, privacy_of
from worker.settings import load_settings

KEY = "V3ryL0ngSecretKeyOfFortyFourCharactersInAll="


def loaded(**variables):
    return load_settings({f"POSTBOTE_AUDIT_{name}": value for name, value in variables.items()})


def test_unless_told_otherwise_nothing_is_hidden_or_hashed():
    assert privacy_of(loaded()) is PLAIN


@pytest.mark.parametrize(
    ("variables", "mode", "key"),
    [
        ({"RECIPIENTS": "masked"}, RecipientMode.MASKED, None),
        ({"RECIPIENTS": "masked", "HASH_KEY": KEY}, RecipientMode.MASKED, KEY.encode()),
        ({"RECIPIENTS": "hashed", "HASH_KEY": KEY}, RecipientMode.HASHED, KEY.encode()),
        ({"HASH_KEY": f"{KEY}\n"}, RecipientMode.PLAIN, KEY.encode()),
        ({"HASH_KEY": "sixteen letters and as many more"}, RecipientMode.PLAIN, b"sixteen letters and as many more"),
    ],
)
def test_the_settings_say_how_recipients_are_kept(variables, mode, key):
    privacy = privacy_of(loaded(**variables))
    assert (privacy.mode, privacy.key) == (mode, key)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RECIPIENTS": "hashed"}, ("POSTBOTE_AUDIT_RECIPIENTS", "POSTBOTE_AUDIT_HASH_KEY")),
        ({"RECIPIENTS": "hidden"}, ("POSTBOTE_AUDIT_RECIPIENTS",)),
        ({"HASH_KEY": "tooshort-secret"}, ("POSTBOTE_AUDIT_HASH_KEY", "at least 32", "openssl rand")),
        ({"HASH_KEY": " " * 40 + "blanks-secret"}, ("POSTBOTE_AUDIT_HASH_KEY", "at least 32")),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it_and_never_the_key(variables, words):
    with pytest.raises(SettingsError) as refused:
        loaded(**variables)
    assert all(word in str(refused.value) for word in words)
    assert "-secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_key_is_not_in_the_settings_own_words():
    assert KEY not in repr(loaded(HASH_KEY=KEY))


class Asked:
    """Remembers what it was asked."""

    def __init__(self):
        self.queries = []

    async def search(self, query):
        self.queries.append(query)
        return AuditPage(0, [], 0, 10, 0)

    async def count(self, query):
        self.queries.append(query.records)

    async def release(self, after):
        self.queries.append(after)


async def test_a_question_for_an_address_is_one_for_its_hash_too():
    asked, privacy = Asked(), privacy_of(loaded(HASH_KEY=KEY))
    await finding(asked, privacy).search(AuditQuery(recipient="Bob@x.example"))
    await counting(asked, privacy).count(StatsQuery(AuditQuery(recipient="bob@x.example")))
    await finding(asked, privacy).search(AuditQuery(partner="acme"))
    assert [each.recipient_hash for each in asked.queries] == [privacy.hash_of("bob@x.example")] * 2 + [None]
    assert asked.queries[2] == AuditQuery(partner="acme")


def test_without_a_key_nothing_stands_between_the_asker_and_the_audit():
    asked = Asked()
    assert finding(asked, PLAIN) is asked
    assert counting(asked, PLAIN) is asked
