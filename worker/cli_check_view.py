"""How ``postbote config check`` shows a check: a tree that grows on a terminal, lines where it is piped.

The words are a stranger's, cleaned of controls; nothing of them is read as markup.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import typer
from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text
from rich.tree import Tree

from worker.smtp.probe_stages import NOT_COME_TO, Report, Stage, StageName, StageResult

_STYLES = {StageResult.OK: "green", StageResult.FAILED: "bold red", StageResult.SKIPPED: "dim"}
_NAME_WIDTH = max(len(name) for name in StageName)


class PlainLines:
    """One line for each stage, and its details below it, indented."""

    def __init__(self, title: str) -> None:
        """Take the title."""
        self._title = title

    def __enter__(self) -> Self:
        """Print the title."""
        typer.echo(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        """Leave what was printed."""

    def show(self, stage: Stage) -> None:
        """Print the stage; those that were not come to are named at the end."""
        if _left_out(stage):
            return
        typer.echo(f"{stage.result:<8}{stage.name:<{_NAME_WIDTH + 2}}{_time(stage):>10}  {summary(stage)}".rstrip())
        for line in details(stage):
            typer.echo(f"{'':8}{line}")

    def conclude(self, report: Report) -> None:
        """Print the verdict."""
        if left := _not_come_to(report.stages):
            typer.echo(left)
        typer.echo(verdict(report))


class LiveTree:
    """A tree that grows; the stage under way turns."""

    def __init__(self, console: Console, title: str, names: Sequence[StageName]) -> None:
        """Take what is planned, to know what is under way."""
        self._title = Text(title, style="bold")
        self._names = names
        self._ended: list[Stage] = []
        self._verdict: Text | None = None
        self._live = Live(self._tree(), console=console, refresh_per_second=10)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the last picture stays."""
        self._live.stop()

    def show(self, stage: Stage) -> None:
        """Grow by the stage."""
        self._ended.append(stage)
        self._live.update(self._tree())

    def conclude(self, report: Report) -> None:
        """Grow by the verdict, and put the stages into their order."""
        self._ended = list(report.stages)
        self._verdict = Text(verdict(report), style=_STYLES[StageResult.OK if report.ok else StageResult.FAILED])
        self._live.update(self._tree(), refresh=True)

    def _tree(self) -> Tree:
        tree = Tree(self._title)
        for stage in self._ended:
            if _left_out(stage):
                continue
            branch = tree.add(_headline(stage))
            for line in details(stage):
                branch.add(Text(line))
        seen = {stage.name for stage in self._ended}
        following = next((name for name in self._names if name not in seen), None)
        if self._verdict is not None:
            if left := _not_come_to(self._ended):
                tree.add(Text(left, style="dim"))
            tree.add(self._verdict)
        elif following is not None:
            tree.add(Spinner("dots", Text(str(following))))
        return tree


Screen = PlainLines | LiveTree


def screen(title: str, names: Sequence[StageName]) -> Screen:
    """A live tree on a terminal, lines where the output goes elsewhere."""
    console = Console(highlight=False)
    return LiveTree(console, title, names) if console.is_terminal else PlainLines(title)


def summary(stage: Stage) -> str:
    """What the stage showed, in a line."""
    said = f"{'' if stage.code is None else stage.code} {stage.words}".strip()
    spell = _SUMMARIES.get(stage.name) if stage.result is StageResult.OK else None
    return said if spell is None else spell(stage.facts, said)


def details(stage: Stage) -> Iterator[str]:
    """Further lines: certificates, denied addresses, the rule, what to do."""
    for address, why in stage.facts.get("denied", {}).items():
        yield f"{address}: {why}"
    for certificate in stage.facts.get("chain", ()):
        yield _spell(certificate)
    if stage.rule is not None:
        yield f"a mail would be: {stage.outcome} ({stage.rule})"
    if stage.hint is not None:
        yield f"hint: {stage.hint.text}"


def verdict(report: Report) -> str:
    """The last line."""
    if report.failed is None:
        return f"ok: every stage passed in {report.total_ms:.0f} ms; no mail was sent"
    return f"failed at {report.failed.name} after {report.total_ms:.0f} ms; no mail was sent"


def _left_out(stage: Stage) -> bool:
    return stage.result is StageResult.SKIPPED and stage.words == NOT_COME_TO


def _not_come_to(stages: Sequence[Stage]) -> str:
    names = ", ".join(str(stage.name) for stage in stages if _left_out(stage))
    return f"{NOT_COME_TO}: {names}" if names else ""


def _headline(stage: Stage) -> Text:
    line = Text(f"{stage.name} ", style=_STYLES[stage.result])
    line.append(f"{stage.result} " if stage.result is not StageResult.OK else "", style=_STYLES[stage.result])
    line.append(f"{_time(stage)} ".lstrip(), style="dim")
    return line.append(summary(stage), style="default")


def _time(stage: Stage) -> str:
    return "" if stage.result is StageResult.SKIPPED else f"{stage.ms:.1f} ms"


def _trust(facts: Mapping[str, Any]) -> str:
    return "verified" if facts["verified"] else f"not verified: {facts['why_not']}"


def _tls(facts: Mapping[str, Any], _said: str) -> str:
    return f"{facts['version']} {facts['cipher']}, {_trust(facts)}"


def _keywords(facts: Mapping[str, Any], _said: str) -> str:
    return "; ".join(facts["keywords"])


_SUMMARIES: Mapping[StageName, Callable[[Mapping[str, Any], str], str]] = {
    StageName.DNS: lambda facts, _: ", ".join(facts["addresses"]),
    StageName.EGRESS: lambda _facts, _: "permitted",
    StageName.TCP: lambda facts, _: f"connected to {facts['address']}",
    StageName.TLS: _tls,
    StageName.EHLO: _keywords,
    StageName.EHLO_TLS: _keywords,
    StageName.AUTH: lambda facts, said: f"{facts['mechanism']}: {said}",
}


def _spell(certificate: Mapping[str, Any]) -> str:
    if "unreadable" in certificate:
        return f"a certificate that cannot be read: {certificate['unreadable']}"
    names = ", ".join(certificate["names"]) or certificate["subject"]
    held = f"{certificate['not_before'][:10]} to {certificate['not_after'][:10]}"
    return f"certificate for {names}; issued by {certificate['issuer']}; valid {held}"
