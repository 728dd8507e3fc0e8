"""Which RabbitMQ the native way runs, and what is said where it cannot; the way itself is used by whole test files."""

import os
from pathlib import Path

import pytest

from tests.services import rabbitmq
from tests.services.rabbitmq_root import BIN, VARIABLE, Installation, installation
from tests.services.ways import ServiceUnavailable


def root_with_rabbitmq(folder: Path) -> Path:
    program = folder / BIN.lstrip("/") / "rabbitmq-server"
    program.parent.mkdir(parents=True)
    program.touch()
    (folder / "var/lib/rabbitmq").mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("user", "complete", "says"),
    [(0, True, None), (0, False, "mmdebstrap"), (1000, True, "root's rights")],
    ids=["as root, with the package", "as root, without it", "as somebody else"],
)
def test_a_root_is_open_or_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: int, complete: bool, says: str | None
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    closed = Installation(root_with_rabbitmq(tmp_path) if complete else tmp_path).closed()
    assert closed is None if says is None else says in (closed or "")


def test_an_empty_root_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ServiceUnavailable):
        Installation(tmp_path).provide()


def test_the_machines_own_programs_run_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert not installation().apart
    assert installation().command("epmd", "-port", "1", cwd=tmp_path) == ("epmd", "-port", "1")


def test_a_root_closes_the_way_by_docker_which_would_be_another_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(VARIABLE, str(root_with_rabbitmq(tmp_path)))
    assert rabbitmq.OFFER.docker() == f"{VARIABLE} is set"
    assert installation().command("epmd", cwd=tmp_path)[0] == "/usr/bin/unshare"
