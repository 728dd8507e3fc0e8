"""Logging: structlog's pipeline, as JSON unless a person is looking, with nothing secret in it.

Two rules keep secrets and bodies out even where a caller slips: values under a telling name are
replaced, and raw bytes, which are bodies or wire traffic, are replaced by their length.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from pydantic import SecretStr

from worker.delivery.identity import name_event
from worker.delivery.quoted import without_addresses
from worker.settings import LogFormat

_TELLING = re.compile(
    r"passw|secret|token|authorization|cookie|credential|api_?key|^(body|content|text|html|data)$", re.IGNORECASE
)
_USERINFO = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
# What is longer keeps its ends: a traceback says at its end what went wrong, and before it where.
_MAX_VALUE_CHARS = 2000
_HEAD_CHARS = 500
_REMOVED = "[removed]"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace what must not be logged; a structlog processor."""
    for name, value in event.items():
        event[name] = _REMOVED if _TELLING.search(name) else _safe(value)
    return event


def _safe(value: Any) -> Any:
    match value:
        case SecretStr():
            return _REMOVED
        case bytes() | bytearray() | memoryview():
            return f"[{len(value)} bytes]"
        case str():
            return _shortened(_USERINFO.sub(_REMOVED, value))
        case dict():
            return {k: _REMOVED if _TELLING.search(str(k)) else _safe(v) for k, v in value.items()}
        case list() | tuple():
            return [_safe(v) for v in value]
        case _:
            return value


def _shortened(text: str) -> str:
    if len(text) <= _MAX_VALUE_CHARS:
        return text
    return f"{text[:_HEAD_CHARS]} [...] {text[_HEAD_CHARS - _MAX_VALUE_CHARS :]}"


def without_mail_addresses(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace whatever looks like a mail address; a structlog processor behind `redact`."""
    for name, value in event.items():
        event[name] = _unaddressed(value)
    return event


def _unaddressed(value: Any) -> Any:
    match value:
        case str():
            return without_addresses(value, None)
        case dict():
            return {k: _unaddressed(v) for k, v in value.items()}
        case list():
            return [_unaddressed(v) for v in value]
        case _:
            return value


def configure_logging(level: str = "info", style: LogFormat = LogFormat.AUTO, *, keep_addresses: bool = True) -> None:
    """Send structlog, and the libraries' warnings through it, to standard error.

    Without `keep_addresses` no line names a mail address, as where the audit does not either.
    """
    console = style is LogFormat.CONSOLE or (style is LogFormat.AUTO and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        name_event,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
        *(() if keep_addresses else (without_mail_addresses,)),
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    )
    threshold = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                renderer,
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
    # pika tells the story of each lost connection in errors of its own; the connection's logger says it once.
    logging.getLogger("pika").setLevel(logging.CRITICAL)
    # The same with opensearch-py, a traceback for every try: the audit's health says it once.
    logging.getLogger("opensearch").setLevel(logging.CRITICAL)
    # aiosmtpd warns at every login of an attribute that it sets itself.
    logging.getLogger("mail.log").setLevel(logging.ERROR)
    logging.getLogger("mail.debug").setLevel(logging.ERROR)
