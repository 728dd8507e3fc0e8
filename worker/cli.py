"""The command ``postbote``: thin; every command reads the settings and hands over. `cli_late` has the rest of them.

Exit codes: 0 done, 1 something that was needed is away or failed, 2 a wrong argument or setting.
"""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from worker import __version__
from worker.cli_late import LateCommands
from worker.errors import PostboteError, SecretKeyMissing, SecretUnreadable, SettingsError
from worker.settings import Settings, load_settings

app = typer.Typer(
    name="postbote",
    cls=LateCommands,
    help="Events from RabbitMQ become mail over SMTP and SYSTEMAUDIT records in OpenSearch.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db_app = typer.Typer(help="The database of SMTP records.", no_args_is_help=True)
app.add_typer(db_app, name="db")

Embedded = Annotated[
    bool,
    typer.Option("--embedded", help="SQLite files and a local SMTP sink instead of RabbitMQ, OpenSearch and SMTP."),
]
LaneName = Annotated[str, typer.Option("--lane", help="transactional: somebody waits for it; bulk: it can wait.")]


def main() -> None:
    """Run the command; errors that a user can act on are one line on standard error."""
    try:
        app()
    except (SettingsError, SecretUnreadable, SecretKeyMissing) as error:
        _fail(str(error), 2)
    except PostboteError as error:
        _fail(str(error), 1)


@app.command()
def worker() -> None:
    """Consume events and send them, until SIGTERM; serves /healthz and /readyz."""
    _serve(worker=True, api=False, embedded=False)


@app.command()
def api() -> None:
    """Serve the HTTP API on POSTBOTE_HTTP_HOST and POSTBOTE_HTTP_PORT; `postbote init` makes the first admin."""
    _serve(worker=False, api=True, embedded=False)


@app.command()
def run(embedded: Embedded = False) -> None:  # noqa: FBT002 # typer's own form of a flag
    """Worker and API in one process."""
    _serve(worker=True, api=True, embedded=embedded)


@app.command()
def publish(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="JSON or NDJSON files of events; - reads standard input.")
    ],
    lane: LaneName = "transactional",
    embedded: Embedded = False,  # noqa: FBT002 # typer's own form of a flag
    unchecked: Annotated[bool, typer.Option("--unchecked", help="Publish events that are invalid, too.")] = False,  # noqa: FBT002
) -> None:
    """Publish events; each one is confirmed by the broker before the next report of progress."""
    from worker.cli_publish import publish_files

    _run(publish_files(_settings(), files, lane, embedded=embedded, unchecked=unchecked))


@app.command()
def demo(
    directory: Annotated[Path, typer.Option(help="Folder for the demo's files.")] = Path(".postbote/demo"),
) -> None:
    """Show the main job in a minute: 30 events, three tenants, a local SMTP server, the audit."""
    from rich.console import Console

    from worker.demo.run import run_demo

    raise typer.Exit(_run(run_demo(directory, Console())))


@app.command()
def health(
    ready: Annotated[bool, typer.Option("--ready", help="Ask /readyz instead of /healthz.")] = False,  # noqa: FBT002
) -> None:
    """Ask the process on POSTBOTE_HTTP_HOST and POSTBOTE_HTTP_PORT whether it is well."""
    from worker.cli_health import ask

    well, words = ask(load_settings(), ready=ready)
    typer.echo(words)
    raise typer.Exit(0 if well else 1)


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@db_app.command("upgrade")
def db_upgrade() -> None:
    """Create the database of SMTP records, or bring its schema up to date."""
    from worker.store.database import Store

    async def upgrade() -> str:
        store = Store(_settings().database_url)
        try:
            await store.upgrade()
            return store.location
        finally:
            await store.close()

    typer.echo(f"the schema is up to date: {_run(upgrade())}")


def _serve(*, worker: bool, api: bool, embedded: bool) -> None:
    from worker.app import serve

    settings = _settings()
    _run(serve(settings, worker=worker, api=api, embedded=embedded))


def _settings() -> Settings:
    from worker.logs import configure_logging

    settings = load_settings()
    plain = settings.audit_recipients == "plain"
    configure_logging(settings.log_level, settings.log_format, keep_addresses=plain)
    return settings


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run on uvloop where it is installed, else on the standard library's loop."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)


def _fail(words: str, code: int) -> NoReturn:
    typer.echo(f"postbote: {words}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
