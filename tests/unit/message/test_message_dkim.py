"""A signature that a verifier accepts, over bytes that stay as they were."""

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from message_events import mail

from worker.errors import RenderError
from worker.message import DkimKey, sign


@pytest.fixture(scope="module")
def pair():
    private = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
    return DkimKey("acme.example", "mail1", pem), record


def verified(content, record):
    asked = []

    def dns(name, timeout=5):
        asked.append(name)
        return record

    return dkim.verify(content, dnsfunc=dns, minkey=1024), asked


MAILS = [
    {},
    {"subject": "Grüße " * 30, "text": "日本語\n" * 20, "html": "<p>ü</p>"},
    {"to": ["jörg@acme.example"], "text": "trailing   \n\n\n"},
]


@pytest.mark.parametrize("fields", MAILS, ids=["plain", "encoded", "smtputf8"])
def test_a_signed_message_verifies_and_is_otherwise_untouched(pair, fields):
    key, record = pair
    content = mail(**fields).message.content
    signed = sign(content, key)
    assert signed.startswith(b"DKIM-Signature:")
    assert signed.endswith(b"\r\n" + content)
    assert b"\n" not in signed.replace(b"\r\n", b"")
    assert verified(signed, record) == (True, [b"mail1._domainkey.acme.example."])


@pytest.mark.parametrize(
    "change", [(b"Hello", b"Hullo"), (b"Subject: Hello", b"Subject: Other"), (b"From: Acme", b"From: Eve")]
)
def test_a_changed_message_no_longer_verifies(pair, change):
    key, record = pair
    signed = sign(mail().message.content, key)
    assert verified(signed.replace(*change), record)[0] is False


def test_a_second_author_header_breaks_the_signature(pair):
    key, record = pair
    signed = sign(mail().message.content, key)
    assert verified(b"From: eve@evil.example\r\n" + signed, record)[0] is False


def test_a_key_that_is_none_is_refused_without_being_shown():
    key = DkimKey("acme.example", "mail1", b"-----BEGIN NONSENSE")
    with pytest.raises(RenderError) as refused:
        sign(mail().message.content, key)
    assert refused.value.path == "dkim"
    assert "NONSENSE" not in str(refused.value)
    assert "NONSENSE" not in repr(key)
