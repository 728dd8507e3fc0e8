"""TLS contexts for SMTP: TLS 1.2 or newer, verified unless a record says otherwise.

Reading the system's certificates takes tens of milliseconds, so a context is built once for each
(CA bundle, verification) and off the event loop.
"""

import asyncio
import ssl
from functools import lru_cache

from schemas.smtp_config import SmtpConfig


async def tls_context(config: SmtpConfig) -> ssl.SSLContext:
    """Return the context that `config` asks for.

    Raises ssl.SSLError where its `ca_bundle` is not PEM.
    """
    return await asyncio.to_thread(_build, config.ca_bundle, config.verify_tls)


async def own_tls_context(config: SmtpConfig) -> ssl.SSLContext:
    """Return the same, shared with nobody: its caller may watch what it does."""
    return await asyncio.to_thread(_build.__wrapped__, config.ca_bundle, config.verify_tls)


@lru_cache(maxsize=256)
def _build(ca_bundle: str | None, verify: bool) -> ssl.SSLContext:  # noqa: FBT001 # a cache key, called once above
    context = ssl.create_default_context(cadata=ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
