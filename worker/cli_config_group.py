"""The whole of ``postbote config``: the commands on records, and those of other modules that join them."""

from worker.cli_check import check_record
from worker.cli_config import config_app
from worker.cli_config_history import order, roll_back, show_history
from worker.cli_explain import explain_scope
from worker.cli_verify import verify_record

__all__ = ["config_app"]

config_app.command("check")(check_record)
config_app.command("explain")(explain_scope)
config_app.command("verify")(verify_record)
config_app.command("history")(show_history)
config_app.command("rollback")(roll_back)
config_app.command("order")(order)
