"""The same ports over SQLite and a local SMTP sink: demo and development without a server."""
