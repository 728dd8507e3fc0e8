"""The structure that the design promises, read off the code itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(p for package in ("worker", "schemas", "tools") for p in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION_LINES = 45

CORE = ("worker.delivery", "worker.message", "worker.control")
LIBRARIES_OF_THE_EDGES = ("pika", "aiosmtplib", "opensearchpy", "sqlalchemy", "fastapi", "aiosmtpd", "uvicorn")
ADAPTERS = (
    "worker.rabbit",
    "worker.smtp",
    "worker.audit",
    "worker.store",
    "worker.api",
    "worker.embedded",
    "worker.journal",
)
# Whoever stands above the adapters: the commands and the composition.
COMPOSITION = (
    "worker.app",
    "worker.backends",
    "worker.configs",
    "worker.delivering",
    "worker.embedding",
    "worker.workshop",
    "worker.trials",
    "worker.shipping",
    "worker.reception",
    "worker.people",
    "worker.carriers",
    "worker.demo",
    "worker.cli",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith((p + ".", p + "_")) for p in packages)


def forbidden(importer: str, imported: str) -> str | None:
    """The rule that an import breaks, or None."""
    adapter = next((a for a in ADAPTERS if within(importer, (a,))), None)
    if within(importer, ("schemas",)) and within(imported, ("worker",)):
        return "schemas know nothing of the worker"
    if within(importer, CORE) and within(imported, LIBRARIES_OF_THE_EDGES):
        return "the core names no library of the edges"
    if within(importer, CORE) and within(imported, (*ADAPTERS, *COMPOSITION)):
        return "the core knows no adapter"
    if adapter and within(imported, tuple(a for a in ADAPTERS if a != adapter)):
        return "adapters do not know each other"
    if adapter and within(imported, COMPOSITION):
        return "adapters do not know who composes them"
    return "errors import nothing" if importer == "worker.errors" else None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    broken = {i: rule for i in imports_of(path) if (rule := forbidden(name_of(path), i))}
    assert not broken


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("schemas.event", "worker.errors"),
        ("worker.delivery.pipeline", "pika.spec"),
        ("worker.message", "worker.smtp.pool"),
        ("worker.rabbit.consumer", "worker.audit.opensearch"),
        ("worker.store", "worker.app"),
        ("worker.errors", "typing"),
    ],
)
def test_the_rule_itself_catches(importer: str, imported: str) -> None:
    assert forbidden(importer, imported)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short_and_say_what_they_are_for(path: Path) -> None:
    source = path.read_text()
    assert source.count("\n") <= MAX_LINES
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_functions_are_short(path: Path) -> None:
    functions = (
        n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert not {f.name: f.end_lineno - f.lineno for f in functions if f.end_lineno - f.lineno > MAX_FUNCTION_LINES}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_settings_read_the_environment(path: Path) -> None:
    reads = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Attribute) and n.attr in {"environ", "getenv"}
    ]
    assert not reads or name_of(path) == "worker.settings"


def test_the_published_contracts_are_those_of_the_code() -> None:
    from tools.contracts import outdated

    assert outdated() == [], "run `make contracts`"
