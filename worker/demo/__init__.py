"""The demo: thirty events of four tenants, a local SMTP server, and the audit that tells what became of them."""
