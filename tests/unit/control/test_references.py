"""Passwords by reference: what is read, what is refused, and that no error tells what was found."""

import os
from pathlib import Path

import pytest

from schemas.smtp_config import CONTROLLER, Scope
from worker.control.references import KEPT_S, MAX_BYTES, Opening, open_for, opening, read_reference
from worker.errors import SecretKeyMissing, SecretUnreadable, SettingsError
from worker.settings import SYNONYMS, Settings, environment_variable, variable_names

PASSWORD = "correct-horse-battery-staple"
NOBODY = {}.get


def file_of(folder: Path, content: bytes, name: str = "password") -> str:
    path = folder / name
    path.write_bytes(content)
    return f"file:{path}"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("as it stands", b"s3cret", "s3cret"),
        ("one newline at the end is taken off", b"s3cret\n", "s3cret"),
        ("also a Windows one", b"s3cret\r\n", "s3cret"),
        ("blanks are part of it", b" s3cret ", " s3cret "),
        ("UTF-8", "gehëim".encode(), "gehëim"),
        ("the longest that is read", b"x" * MAX_BYTES, "x" * MAX_BYTES),
    ],
)
def test_a_files_content_is_the_password(tmp_path, name, content, expected) -> None:
    assert read_reference(file_of(tmp_path, content), NOBODY) == expected


def test_a_mounted_secret_is_a_link_to_a_file(tmp_path) -> None:
    file_of(tmp_path, b"s3cret", "data")
    (tmp_path / "password").symlink_to(tmp_path / "data")
    assert read_reference(f"file:{tmp_path / 'password'}", NOBODY) == "s3cret"


def test_a_variables_value_is_the_password() -> None:
    assert read_reference("env:RELAY_PASSWORD", {"RELAY_PASSWORD": PASSWORD}.get) == PASSWORD


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return f"file:{folder / 'pipe'}"


REFUSED = {
    "a variable that is not set": (lambda _: "env:RELAY", "the variable is not set"),
    "an empty variable": (lambda _: "env:EMPTY", "it is empty"),
    "a file that is not there": (lambda folder: f"file:{folder / 'absent'}", "No such file or directory"),
    "a folder": (lambda folder: f"file:{folder}", "it is no regular file"),
    "a pipe, which nobody waits for": (fifo, "it is no regular file"),
    "a device": (lambda _: "file:/dev/zero", "it is no regular file"),
    "an empty file": (lambda folder: file_of(folder, b""), "it is empty"),
    "a file with nothing but a newline": (lambda folder: file_of(folder, b"\n"), "it is empty"),
    "a relative path": (lambda _: "file:etc/password", "the path is not absolute"),
    "a path with a NUL": (lambda _: "file:/etc/pass\0word", "it is no text in UTF-8"),
    "more than 64 KiB": (lambda folder: file_of(folder, b"x" * (MAX_BYTES + 1)), "it has more than 64 KiB"),
    "what is not UTF-8": (lambda folder: file_of(folder, b"\xff\xfe"), "it is no text in UTF-8"),
    "several lines": (lambda folder: file_of(folder, f"A=1\nP={PASSWORD}\n".encode()), "several lines"),
    "a NUL in it": (lambda folder: file_of(folder, f"A=1\0P={PASSWORD}".encode()), "control characters"),
    "this process's environment, keys and all": (lambda _: "file:/proc/self/environ", "it is empty"),
}


@pytest.mark.parametrize(("make", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_a_password_is_refused_by_the_name_of_the_reference(tmp_path, make, why) -> None:
    reference = make(tmp_path)
    with pytest.raises(SecretUnreadable) as refused:
        read_reference(reference, {"EMPTY": ""}.get)
    assert str(refused.value).startswith(f"{reference}: ")
    assert why in str(refused.value)
    assert PASSWORD not in str(refused.value)


def test_what_is_no_reference_is_not_repeated() -> None:
    with pytest.raises(SecretUnreadable) as refused:
        read_reference(PASSWORD, NOBODY)
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    sorted({name for field in Settings.model_fields for name in variable_names(field)} | {*SYNONYMS, "postbote_x"}),
)
def test_no_record_may_refer_to_postbotes_own_settings(name, monkeypatch) -> None:
    monkeypatch.setenv(name, PASSWORD)
    with pytest.raises(SettingsError, match="Postbote's own settings"):
        environment_variable(name)
    with pytest.raises(SecretUnreadable, match=f"env:{name}: it is one of Postbote's own settings"):
        read_reference(f"env:{name}", environment_variable)


def test_any_other_variable_is_read_from_the_processs_environment(monkeypatch) -> None:
    monkeypatch.setenv("RELAY_PASSWORD", PASSWORD)
    assert environment_variable("RELAY_PASSWORD") == PASSWORD
    monkeypatch.delenv("RELAY_PASSWORD")
    assert environment_variable("RELAY_PASSWORD") is None


@pytest.mark.parametrize("scope", [Scope("acme"), Scope("acme", "dev")])
@pytest.mark.parametrize("reference", ["env:RELAY", "file:/run/secrets/relay"])
def test_a_tenants_record_may_not_refer_to_anything(scope, reference) -> None:
    def never(_: str) -> str:
        raise AssertionError("it was opened")

    with pytest.raises(SecretUnreadable, match="only the controller's records"):
        open_for(scope, reference, never)


def test_what_is_sealed_is_opened_for_everybody_and_a_reference_for_the_controller() -> None:
    assert open_for(Scope("acme"), "gAAAA", str.lower) == "gaaaa"
    assert open_for(CONTROLLER, "env:RELAY", str.lower) == "env:relay"


def test_sealed_secrets_pass_through_with_their_errors() -> None:
    def no_key(_: str) -> str:
        raise SecretKeyMissing("no key is set")

    assert opening(str.lower, NOBODY)("GAAAA") == "gaaaa"
    with pytest.raises(SecretKeyMissing):
        opening(no_key, NOBODY)("gAAAA")
    assert opening(no_key, {"RELAY": PASSWORD}.get)("env:RELAY") == PASSWORD  # needs no key


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_rotated_file_takes_effect_within_half_a_minute_and_is_left_alone_meanwhile(tmp_path) -> None:
    clock, reference = Clock(), file_of(tmp_path, b"old")
    open_secret = Opening(str, NOBODY, clock)
    assert open_secret(reference) == "old"
    file_of(tmp_path, b"new")
    clock.now = KEPT_S - 1
    assert open_secret(reference) == "old"
    clock.now = KEPT_S
    assert open_secret(reference) == "new"


def test_a_file_that_is_being_replaced_goes_on_with_what_was_read_last_and_the_log_says_so(tmp_path, capsys) -> None:
    clock, reference = Clock(), file_of(tmp_path, PASSWORD.encode())
    open_secret = Opening(str, NOBODY, clock)
    open_secret(reference)
    (tmp_path / "password").unlink()
    clock.now = KEPT_S
    assert open_secret(reference) == PASSWORD
    told = "".join(capsys.readouterr())
    assert "No such file" in told
    assert PASSWORD not in told
    file_of(tmp_path, b"new")
    clock.now = 2 * KEPT_S
    assert open_secret(reference) == "new"


def test_what_was_never_read_is_an_error(tmp_path) -> None:
    with pytest.raises(SecretUnreadable):
        Opening(str, NOBODY)(f"file:{tmp_path / 'absent'}")
