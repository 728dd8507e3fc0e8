"""``postbote audit key``: a new pair of keys for the heads of the audit's chains.

Nothing is stored: whoever runs it keeps the private half where the writers get it, and the public one
where the audit is verified.
"""

import typer


def key() -> None:
    """Print a new Ed25519 key that signs heads, and its public half, which proves them: two lines of environment."""
    from worker.proof.signing import Signer

    signer, private = Signer.new()
    typer.echo(f"POSTBOTE_AUDIT_SIGNING_KEY={private}")
    typer.echo(f"POSTBOTE_AUDIT_VERIFY_KEYS={signer.public_key}")
    typer.echo(f"key {signer.key_id}: the first line for who writes records, the second for who verifies", err=True)
