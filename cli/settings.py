"""`renderfarm settings`, and how options of other commands override settings."""

from __future__ import annotations

import click

from shared.logs import redact
from shared.settings import Settings, environment, load_settings, table, variable


def overridden(settings: Settings, **options: object) -> Settings:
    """The settings with options put over them; an option that is None changes nothing.

    What nobody set stays unset in `model_fields_set`. Raises SettingsError.
    """
    chosen = {variable(field) for field in settings.model_fields_set}
    given = {name: value for name, value in environment(settings).items() if name in chosen}
    over = {variable(name): str(value) for name, value in options.items() if value is not None}
    return load_settings(given | over)


def with_own_redis(settings: Settings) -> Settings:
    """A farm of `renderfarm up` has its Redis in the data folder, unless another is named."""
    from deploy.embedded import kept_url

    own = None if "redis_url" in settings.model_fields_set else kept_url(settings.data_dir)
    return overridden(settings, redis_url=own)


@click.command()
@click.option("--values", is_flag=True, help="Show what is in force now; secrets stay hidden.")
def settings(values: bool) -> None:
    """List every setting: its variable, default and meaning.

    Settings are environment variables. A misspelt one refuses to start.

    \b
    Example:
      FARM_PORT=8123 renderfarm settings --values
    """
    click.echo(_in_force(load_settings()) if values else table())


def _in_force(settings: Settings) -> str:
    shown = {name: getattr(settings, name) for name in Settings.model_fields}
    lines = (f"{variable(name)}={'' if v is None else redact(str(v))}" for name, v in shown.items())
    return "\n".join(lines)
