"""The structure that the design promises, read off the code itself."""

import ast
import gc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(p for package in ("worker", "schemas", "tools") for p in (ROOT / package).rglob("*.py"))
MAX_LINES = 400
MAX_FUNCTION_LINES = 45

CORE = ("worker.delivery", "worker.message", "worker.control", "worker.proof")
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
    "worker.recipients",
    "worker.recording",
    "worker.carriers",
    "worker.demo",
    "worker.cli",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@dataclass(frozen=True)
class Module:
    """A module, read once for all the rules."""

    name: str
    source: str

    @cached_property
    def tree(self) -> ast.Module:
        # Before 3.11.8 CPython counts one depth for all parsers: a traceback that the collector has printed meanwhile
        # parses, too, and this one ends with a SystemError.
        gc.disable()
        try:
            return ast.parse(self.source)
        finally:
            gc.enable()

    @cached_property
    def nodes(self) -> list[ast.AST]:
        return list(ast.walk(self.tree))

    @property
    def imports(self) -> set[str]:
        found = set()
        for node in self.nodes:
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


def against_the_direction(module: Module) -> object:
    """Imports that break a rule, each with the rule."""
    return {i: rule for i in module.imports if (rule := forbidden(module.name, i))}


def too_long(module: Module) -> object:
    """Lines of a module of more than `MAX_LINES`."""
    lines = module.source.count("\n")
    return lines if lines > MAX_LINES else None


def without_a_word(module: Module) -> object:
    """Whether it does not say what it is for."""
    return not ast.get_docstring(module.tree)


def long_functions(module: Module) -> object:
    """Functions of more than `MAX_FUNCTION_LINES`, each with its lines."""
    functions = (n for n in module.nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return {f.name: f.end_lineno - f.lineno for f in functions if f.end_lineno - f.lineno > MAX_FUNCTION_LINES}


def reading_the_environment(module: Module) -> object:
    """Where a module that is not the settings' reads the environment."""
    reads = [n for n in module.nodes if isinstance(n, ast.Attribute) and n.attr in {"environ", "getenv"}]
    return [n.lineno for n in reads] if module.name != "worker.settings" else None


RULES: tuple[Callable[[Module], object], ...] = (
    against_the_direction,
    too_long,
    without_a_word,
    long_functions,
    reading_the_environment,
)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_keeps_the_rules(path: Path) -> None:
    module = Module(name_of(path), path.read_text())
    assert not {rule.__name__: found for rule in RULES if (found := rule(module))}


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ('"""Well."""\nimport ast\n', set()),
        ("import pika\n", {"against_the_direction", "without_a_word"}),
        ('"""Well."""\n' + "\n" * MAX_LINES, {"too_long"}),
        ('"""Well."""\ndef f():\n' + "    f()\n" * 60, {"long_functions"}),
        ('"""Well."""\nimport os\nos.environ["A"]\n', {"reading_the_environment"}),
    ],
)
def test_each_rule_catches_its_own(source: str, rules: set[str]) -> None:
    module = Module("worker.delivery.pipeline", source)
    assert {rule.__name__ for rule in RULES if rule(module)} == rules


def test_the_published_contracts_are_those_of_the_code() -> None:
    from tools.contracts import outdated

    assert outdated() == [], "run `make contracts`"
