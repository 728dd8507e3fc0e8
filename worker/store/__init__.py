"""The store of SMTP records: SQLite by default, PostgreSQL by its address."""
