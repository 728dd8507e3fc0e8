"""``postbote audit key``: what it prints is what the settings take, and signs what it proves."""

import typer
from typer.testing import CliRunner

from worker.cli_audit import audit_app
from worker.proof.signing import PublicKeys, Signer
from worker.recording import chain_of
from worker.settings import load_settings


def printed():
    main = typer.Typer()
    main.add_typer(audit_app, name="audit")
    found = CliRunner().invoke(main, ["audit", "key"])
    assert found.exit_code == 0
    return found.stdout


def test_its_lines_are_an_environment_in_which_heads_are_signed_and_proved():
    settings = load_settings(dict(line.split("=", 1) for line in printed().splitlines()))
    signer = Signer.read(settings.audit_signing_key.get_secret_value())
    assert PublicKeys(settings.audit_verify_keys).knows({"key_id": signer.key_id})
    assert chain_of(settings).writer.startswith(settings.worker_id)


def test_each_key_is_another():
    assert printed() != printed()
