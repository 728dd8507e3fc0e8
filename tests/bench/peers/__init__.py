"""The others, set up as somebody who knows them well would; nobody has swept their settings for a best value.

Common to all: durable classic queues, their clients' default (Postbote's are quorum queues), and
persistent messages, acknowledged after the mail was sent (late acks); a prefetch above the
concurrency; SMTP connections that are kept and reused; `email.message.EmailMessage`, as Python's
and aiosmtplib's own documentation show it; logging at WARNING (Postbote logs at its own default,
a line per mail). They run in build/bench-venv, never in Postbote's .venv. None of them validates
the event, resolves a tenant, or keeps an audit: they do less work. Each module says what it chose;
what is not said is the library's default.
"""
