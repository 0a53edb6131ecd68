"""`renderfarm api|worker|chores`: one part of the farm, in the foreground."""

from __future__ import annotations

import sys

import click

from cli.settings import overridden
from shared.catalog import load_catalog
from shared.settings import load_settings


@click.command()
@click.option("--host", help="Address to bind.  [default: FARM_HOST, else 127.0.0.1]")
@click.option("--port", type=int, help="Port to bind.  [default: FARM_PORT, else 8000]")
def api(host: str | None, port: int | None) -> None:
    """Serve the HTTP API.

    \b
    Example:
      FARM_REDIS_URL=redis://redis:6379/0 renderfarm api --host 0.0.0.0 --port 8000
    """
    settings = overridden(load_settings(), host=host, port=port)

    from api.main import serve

    serve(settings)


@click.command()
@click.option("--model", help="Model to serve.  [default: FARM_DEFAULT_MODEL, else the file's]")
@click.option("--device", help="auto, cpu, cuda or cuda:N.  [default: FARM_DEVICE, else auto]")
@click.option("--name", help="Name of this worker's slot.  [default: host name and device]")
def worker(model: str | None, device: str | None, name: str | None) -> None:
    """Render for one model, on one device.

    \b
    Example:
      renderfarm worker --model sd3.5-medium --device cuda:0
    """
    settings = overridden(load_settings(), device=device, worker_name=name)
    catalog = load_catalog(settings.models_file, settings.default_model)
    entry = catalog.find(model) if model else catalog.default

    from worker.main import serve

    sys.exit(serve(settings, entry.id))


@click.command()
def chores() -> None:
    """Keep the queue tidy: lost renders, deadlines, tickets.

    Run at least one for each farm; more do no harm.

    \b
    Example:
      FARM_REDIS_URL=redis://redis:6379/0 renderfarm chores
    """
    settings = load_settings()

    from worker.chores import serve

    serve(settings)
