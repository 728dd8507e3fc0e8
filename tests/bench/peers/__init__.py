"""The others, set up as somebody who knows them well would.

Common to all: durable queues and persistent messages, acknowledged after the mail was sent (late
acks), a prefetch well above the concurrency, SMTP connections that are kept and reused, one
reconnect when the server hung up, `email.message.EmailMessage` as Python's and aiosmtplib's own
documentation show it, logging at WARNING. They run in build/bench-venv, never in Postbote's .venv.
None of them validates the event, resolves a tenant, or keeps an audit: they do less work.
Each module says what it chose; what is not said is the library's default.
"""
