"""What the commands that ask the audit have in common: the options that choose records, and asking."""

import asyncio
import inspect
import json as jsonlib
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from schemas.audit_query import AuditQuery, AuditQueryError, parse_audit_query
from worker.errors import CursorExpired, PostboteError, SettingsError

if TYPE_CHECKING:  # a command that is only asked for its help loads no endpoint
    from worker.api.ports import AuditSearch

T = TypeVar("T")

NOT_AVAILABLE = 1
BAD_INPUT = 2
_DURATION = re.compile(r"\d+[smhdwMy]\Z", re.ASCII)

# The filter that an option fills, so that an error names what its reader typed.
_OPTIONS = {
    "filter.timefrom": "--since",
    "filter.timeto": "--until",
    "filter.partner": "--partner",
    "filter.org": "--org",
    "filter.recipient": "--recipient",
    "filter.domain": "--domain",
    "filter.outcome": "--outcome",
    "filter.type": "--type",
    "filter.eventid": "--event-id",
    "filter.source": "--source",
    "filter.config": "--config",
    "filter.code": "--code",
    "filter.enhanced": "--enhanced",
    "filter.duplicate": "--duplicate",
    "filter.text": "--text",
    "filter.sort": "--sort",
    "filter.limit": "--limit",
}

Text = str | None


def _times(
    *,
    since: Annotated[str, typer.Option(help="1h, 7d, now-7d/d, or ISO 8601 with a zone")] = "24h",
    until: Annotated[Text, typer.Option(help="Like --since; now, unless given")] = None,
    sort: Annotated[Text, typer.Option(help="time (oldest first) or -time (newest first); -time, unless given")] = None,
) -> None:
    """The options of a question that has an end."""


def _records(  # noqa: PLR0913 # one option for each filter
    *,
    org: Annotated[Text, typer.Option(help="PARTNER/ORG")] = None,
    partner: Annotated[Text, typer.Option(help="Partner's name")] = None,
    recipient: Annotated[Text, typer.Option(help="Mail address, in any case")] = None,
    domain: Annotated[Text, typer.Option(help="The recipient's mail domain, without its subdomains")] = None,
    outcome: Annotated[Text, typer.Option(help="accepted, refused, …; several with commas between them")] = None,
    record_type: Annotated[
        Text, typer.Option("--type", help="email.delivery, smtp_config.changed, secret.changed, …")
    ] = None,
    event_id: Annotated[Text, typer.Option(help="The event's CloudEvents id")] = None,
    source: Annotated[Text, typer.Option(help="The event's CloudEvents source")] = None,
    config: Annotated[Text, typer.Option(help="Name of the SMTP record that was used")] = None,
    code: Annotated[Text, typer.Option(help="SMTP reply code: 550, 5xx, 55x")] = None,
    enhanced: Annotated[Text, typer.Option(help="Enhanced status code, or how it begins: 5.1.1, 5.1")] = None,
    duplicate: Annotated[
        bool | None, typer.Option("--duplicate/--no-duplicate", help="Mails that may be a second one, or only others")
    ] = None,
    text: Annotated[Text, typer.Option(help="Words that all stand in the reply or in the reason")] = None,
) -> None:
    """The options that choose records."""


def filtered(*, times: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of the filters, and its parameter `filters` what was given with them.

    `times`: also those of a range and of the order.
    """
    options = [p for template in ((_times, _records) if times else (_records,)) for p in _parameters(template)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def run(**given: Any) -> None:
            filters = {option.name: given.pop(option.name) for option in options}
            command(filters=_filters(filters), **given)

        own = [p for p in _parameters(command) if p.name != "filters"]
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        # Typer reads a command's options off its signature.
        run.__signature__ = inspect.Signature([*options, *own])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in (*options, *own)}
        return run

    return decorate


def question(filters: Mapping[str, Text]) -> AuditQuery:
    """Read the question; bad input ends the command with a line that names the option."""
    params = [(name, value) for name, value in filters.items() if value is not None]
    try:
        return parse_audit_query(params, datetime.now(UTC))
    except AuditQueryError as error:
        message = error.message
        for path, option in _OPTIONS.items():
            message = message.replace(path, option)
        fail(f"{_OPTIONS.get(error.path, error.path)}: {message}")


def ask(work: "Callable[[AuditSearch], Awaitable[T]]", *, embedded: bool) -> T:
    """Open the audit, do the work with it, and close it; what goes wrong ends the command with one line."""

    async def opened() -> T:
        from worker.app import open_search
        from worker.settings import load_settings

        async with open_search(load_settings(), embedded=embedded) as search:
            return await work(search)

    try:
        return asyncio.run(opened())
    except SettingsError as error:
        fail(str(error))
    except CursorExpired:
        fail("the answer could not be read to its end in time: ask again, or for less at once", NOT_AVAILABLE)
    except PostboteError as error:
        fail(str(error), NOT_AVAILABLE)


def json_line(record: Mapping[str, Any]) -> str:
    """One JSON document; ASCII only, as what JSON itself leaves unescaped still steers a terminal."""
    return jsonlib.dumps(record, separators=(",", ":"))


def fail(message: str, code: int = BAD_INPUT) -> NoReturn:
    """End the command with one line on standard error."""
    typer.echo(message, err=True)
    raise typer.Exit(code)


def _parameters(template: Callable[..., None]) -> list[inspect.Parameter]:
    return list(inspect.signature(template, eval_str=True).parameters.values())


def _filters(given: Mapping[str, Any]) -> dict[str, Text]:
    partner, org_name = _split_org(given["org"], given["partner"])
    duplicate = given["duplicate"]
    return {
        "filter.timefrom": _ago(given.get("since")),
        "filter.timeto": _ago(given.get("until")),
        "filter.sort": given.get("sort"),
        "filter.partner": partner,
        "filter.org": org_name,
        "filter.recipient": given["recipient"],
        "filter.domain": given["domain"],
        "filter.outcome": given["outcome"],
        "filter.type": given["record_type"],
        "filter.eventid": given["event_id"],
        "filter.source": given["source"],
        "filter.config": given["config"],
        "filter.code": given["code"],
        "filter.enhanced": given["enhanced"],
        "filter.duplicate": None if duplicate is None else str(duplicate).lower(),
        "filter.text": given["text"],
    }


def _split_org(org: Text, partner: Text) -> tuple[Text, Text]:
    if org is None:
        return partner, None
    owner, slash, name = org.partition("/")
    if not slash or not owner or not name or "/" in name:
        fail("--org: expected PARTNER/ORG, such as acme/dev")
    if partner is not None and partner != owner:
        fail(f"--org: belongs to the partner {owner}, and --partner says {partner}")
    return owner, name


def _ago(text: Text) -> Text:
    return f"now-{text}" if text is not None and _DURATION.match(text) else text
