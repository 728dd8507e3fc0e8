"""The write side of the audit's proof: records are numbered, linked and, now and then, vouched for by a head."""
