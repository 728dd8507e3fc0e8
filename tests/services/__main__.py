"""`python -m tests.services`: the test servers by hand.

eval "$(python -m tests.services up)"   start them and leave them running; tests then use these
python -m tests.services down           end them
python -m tests.services check          say which way leads to each
"""

import argparse
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from tests.services import opensearch, postfix_hosts, postgres, rabbitmq, sessions
from tests.services.postfix import Postfix
from tests.services.sessions import Session
from tests.services.ways import Offer, ServiceUnavailable

Exports = dict[str, str]


def up_rabbitmq(session: Session) -> Exports:
    """Start RabbitMQ."""
    broker = rabbitmq.broker(session)
    broker.start()
    return {rabbitmq.OFFER.url_variable or "": broker.url, rabbitmq.MANAGEMENT_VARIABLE: broker.management_url}


def up_opensearch(session: Session) -> Exports:
    """Start OpenSearch."""
    server = opensearch.server(session)
    server.start()
    return {opensearch.OFFER.url_variable or "": server.url}


def up_postfix(session: Session) -> Exports:
    """Start Postfix. Tests start one of their own; this is for trying things by hand."""
    instance = Postfix.make(session)
    instance.start()
    prefix = "POSTBOTE_TEST_SMTP"
    return {
        f"{prefix}_PLAIN_PORT": str(instance.port_plain),
        f"{prefix}_STARTTLS_PORT": str(instance.port_starttls),
        f"{prefix}_SSL_PORT": str(instance.port_ssl),
        f"{prefix}_CA_FILE": str(instance.ca_file),
        f"{prefix}_USERS": " ".join(f"{user}:{password}" for user, password in instance.users.items()),
        f"{prefix}_MAILBOX": str(instance.folder / "mail/inbox/new"),
    }


def up_postgres(session: Session) -> Exports:
    """Start PostgreSQL."""
    server = postgres.server(session)
    server.start()
    return {postgres.OFFER.url_variable or "": server.url}


STARTS: dict[str, Callable[[Session], Exports]] = {
    "rabbitmq": up_rabbitmq,
    "opensearch": up_opensearch,
    "postfix": up_postfix,
    "postgres": up_postgres,
}
OFFERS: dict[str, Offer] = {
    "rabbitmq": rabbitmq.OFFER,
    "opensearch": opensearch.OFFER,
    "postfix": postfix_hosts.OFFER,
    "postgres": postgres.OFFER,
}


def up(names: list[str]) -> None:
    """Start servers that outlive this command, and print what to export."""
    folder = sessions.run_root() / "sessions/up"
    if (folder / "exports").exists():
        print((folder / "exports").read_text(), end="")
        print(f"already up, in {folder}; `down` ends them", file=sys.stderr)
        return
    session = Session.open("up")
    try:
        text = "".join(_export(name, session) for name in names)
    except BaseException:
        session.end()
        raise
    (folder / "exports").write_text(text)
    session.keep()
    print(text, end="")


def _export(name: str, session: Session) -> str:
    exports = STARTS[name](session)
    return "".join(f"export {key}={shlex.quote(value)}\n" for key, value in exports.items())


def down() -> None:
    """End what `up` started, and what died sessions left."""
    folder: Path = sessions.run_root() / "sessions/up"
    if folder.exists():
        Session(folder).end()
    sessions.end_abandoned()


def check(names: list[str]) -> bool:
    """Print every way to every server; whether each has an open one."""
    complete = True
    for name in names:
        closed = OFFERS[name].closed()
        complete &= None in closed.values()
        for way, reason in closed.items():
            print(f"{name:<11} {way:<7} {'open' if reason is None else f'closed: {reason}'}")
    return complete


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m tests.services", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("up", "down", "check"))
    parser.add_argument("--only", default=",".join(STARTS), help="comma-separated; default: %(default)s")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := set(names) - set(STARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    try:
        if arguments.command == "check":
            return 0 if check(names) else 1
        up(names) if arguments.command == "up" else down()
    except ServiceUnavailable as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
