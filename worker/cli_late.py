"""The commands that modules of their own hold: known by name, imported when they are asked for.

A worker lives for weeks, and a health check is run every few seconds: neither is to load the modules
of twenty other commands. ``postbote --help`` loads them all.
"""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

# The command's or the group's name -> where it is, in the order in which help lists them.
ELSEWHERE = {
    "init": "worker.cli_init:init",
    "config": "worker.cli_config_group:config_app",
    "audit": "worker.cli_audit:audit_app",
    "parked": "worker.cli_parked:parked_app",
    "topology": "worker.cli_topology:topology_app",
    "secrets": "worker.cli_secrets:secrets_app",
    "user": "worker.cli_user:user_app",
    "token": "worker.cli_token:token_app",
    "partner": "worker.cli_partner:partner_app",
    "org": "worker.cli_partner:org_app",
}


class LateCommands(TyperGroup):
    """A group with commands of its own and those of `ELSEWHERE`."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all, for help; its own come first."""
        for name in ELSEWHERE:
            self._load(name)
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return the one of that name, or None."""
        if cmd_name in ELSEWHERE:
            self._load(cmd_name)
        elif cmd_name not in self.commands:
            self.list_commands(ctx)  # one of these may have been meant, and is then suggested
        return super().get_command(ctx, cmd_name)

    def _load(self, name: str) -> None:
        if name not in self.commands:
            self.add_command(_made(name), name)


def _made(name: str) -> Any:
    """Import the command or group, and build it as typer does those that are added to an application."""
    module, _, attribute = ELSEWHERE[name].partition(":")
    found = getattr(import_module(module), attribute)
    around = typer.Typer()
    if isinstance(found, typer.Typer):
        around.add_typer(found, name=name)
    else:
        around.command(name)(found)
    return get_group(around).commands[name]
