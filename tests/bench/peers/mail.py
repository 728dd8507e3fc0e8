"""What the peers share: event -> message, and one kept SMTP connection per thread.

`BENCH_MIME=legacy` builds with `email.mime` instead of `EmailMessage`: less correct about headers,
and about a third of the CPU time. The bench shows one contender with each.
"""

import os
import smtplib
import ssl
import threading
from collections.abc import Callable
from datetime import datetime
from email.header import Header
from email.message import EmailMessage, Message
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import format_datetime
from typing import Any

HOST = "127.0.0.1"
PORT = int(os.environ.get("BENCH_SMTP_PORT", "25"))
CA_FILE = os.environ.get("BENCH_CA_FILE") or None
AMQP_URL = os.environ.get("BENCH_AMQP_URL", "")
SENDER = "bench@example.com"
TIMEOUT_S = 30


def with_email_message(event: dict[str, Any]) -> Message:
    """Build it as the standard library's documentation does."""
    data = event["data"]
    message = EmailMessage()
    _set_headers(message, event, data["subject"])
    message.set_content(data["text"])
    message.add_alternative(data["html"], subtype="html")
    return message


def with_legacy_mime(event: dict[str, Any]) -> Message:
    """Build it from the older MIME classes."""
    data = event["data"]
    message = MIMEMultipart("alternative")
    _set_headers(message, event, data["subject"] if data["subject"].isascii() else Header(data["subject"], "utf-8"))
    message.attach(MIMEText(data["text"]))
    message.attach(MIMEText(data["html"], "html"))
    return message


def _set_headers(message: Message, event: dict[str, Any], subject: Any) -> None:
    message["From"] = SENDER
    message["To"] = ", ".join(event["data"]["to"])
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.fromisoformat(event["time"]))
    message["Message-ID"] = f"<{event['id']}@bench.example.com>"
    message["Auto-Submitted"] = "auto-generated"


build: Callable[[dict[str, Any]], Message] = (
    with_legacy_mime if os.environ.get("BENCH_MIME") == "legacy" else with_email_message
)


class KeptConnection(threading.local):
    """One SMTP connection per thread (and so per prefork process), opened at the first mail."""

    client: smtplib.SMTP | None = None

    def send(self, event: dict[str, Any]) -> None:
        """Send; once more on a new connection where the old one was gone."""
        message = build(event)
        try:
            self._connected().send_message(message)
        except smtplib.SMTPServerDisconnected:
            self.client = None
            self._connected().send_message(message)

    def _connected(self) -> smtplib.SMTP:
        if self.client is None:
            client = smtplib.SMTP(HOST, PORT, local_hostname="bench", timeout=TIMEOUT_S)
            if CA_FILE:
                client.starttls(context=tls_context())
            self.client = client
        return self.client


def tls_context() -> ssl.SSLContext:
    """A verifying context that trusts the sink's CA."""
    return ssl.create_default_context(cafile=CA_FILE)
