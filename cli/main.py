"""The command `renderfarm`: one thin group, whose commands are imported when they are named."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from shared.errors import FarmError, InvalidOrder, SettingsError
from shared.settings import load_settings

# Each command is an object of its own name in this module, `dry-run` is `dry_run`.
COMMANDS = {
    "up": "cli.up",
    "render": "cli.render",
    "submit": "cli.submit",
    "dry-run": "cli.dry_run",
    "status": "cli.status",
    "wait": "cli.wait",
    "result": "cli.result",
    "events": "cli.events",
    "list": "cli.list",
    "cancel": "cli.cancel",
    "retry": "cli.retry",
    "queue": "cli.queue",
    "webhooks": "cli.webhooks",
    "poison": "cli.poison",
    "gc": "cli.gc",
    "workers": "cli.workers",
    "keys": "cli.keys",
    "audit": "cli.audit",
    "models": "cli.models",
    "bench": "cli.bench",
    "plan": "cli.plan",
    "verify": "cli.verify",
    "settings": "cli.settings",
    "api": "cli.parts",
    "worker": "cli.parts",
    "chores": "cli.parts",
}


class Commands(click.Group):
    """Imports a command's module when the command is asked for; says a FarmError in one line."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, module in COMMANDS.items() if _is_here(module)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(COMMANDS[name]), name.replace("-", "_"))
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (FarmError, ModuleNotFoundError) as error:
            if ctx.params["debug"] or _debugging():
                raise
            click.echo(f"renderfarm: {_in_words(error)}", err=True)
            ctx.exit(exit_code(error))
        except KeyboardInterrupt:
            ctx.exit(130)


def _is_here(module: str) -> bool:
    """An image, or an installation without some extra, lacks what its part of the farm does not need."""
    try:
        import_module(module)
    except ModuleNotFoundError:
        return False
    return True


def _in_words(error: FarmError | ModuleNotFoundError) -> str:
    if isinstance(error, FarmError):
        return str(error)
    return f"this needs the module {error.name}, which this installation does not have; docs/operate.md says what each part needs"


def exit_code(error: FarmError | ModuleNotFoundError) -> int:
    """2 for wrong usage or settings; else the error's own code, or 1."""
    usage = isinstance(error, SettingsError | InvalidOrder)
    return 2 if usage else getattr(error, "exit_code", 1)


def _debugging() -> bool:
    try:
        return load_settings().log_level == "DEBUG"
    except SettingsError:
        return False


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="renderfarm")
@click.option("--debug", is_flag=True, help="Show a traceback where there is an error.")
def main(debug: bool) -> None:
    """A render farm for Stable Diffusion 3.5.

    \b
    Example:
      renderfarm up                                # a whole farm on this machine
      renderfarm render "a lighthouse at dusk"     # order a picture from it, wait, save it
      renderfarm submit "a lighthouse at dusk"     # order it and go; see `list`, `wait`, `result`
    """


if __name__ == "__main__":
    main(prog_name="renderfarm")
