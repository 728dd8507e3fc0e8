"""Postbote against real and misbehaving SMTP servers: what arrived, what the audit says, and that they agree."""
