"""SMTP: connections, their pool, and the transaction."""
