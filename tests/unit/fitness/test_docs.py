"""What the documents show must be what there is."""

import re
from pathlib import Path

import pytest

from tools.picture import TARGET, draw

ROOT = Path(__file__).resolve().parents[3]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_picture_is_the_one_that_the_project_draws() -> None:
    assert TARGET.read_text() == draw(), "run `python -m tools.picture`"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_to_files_that_exist(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_commands_that_are_shown_exist(document: Path) -> None:
    from typer.main import get_command

    from worker.cli import app

    known = get_command(app).list_commands(None)  # type: ignore[attr-defined] # a group, as the app has several
    shown = set(re.findall(r"postbote ([a-z]+)", document.read_text()))
    assert shown - set(known) <= {"takes"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_make_targets_that_are_shown_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = set(re.findall(r"(?:`|^\s+)make ([a-z-]+)", document.read_text(), re.MULTILINE))
    assert shown <= targets
