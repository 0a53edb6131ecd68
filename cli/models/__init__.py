"""`renderfarm models ...`: what this farm knows, and the weights that it serves."""

from __future__ import annotations

import click

from cli.models.add_lora import add_lora
from cli.models.bake import bake
from cli.models.check import check
from cli.models.export import export
from cli.models.fit import fit
from cli.models.listing import list_models
from cli.models.make_tiny import make_tiny
from cli.models.prefetch import prefetch
from cli.models.pull import pull


@click.group()
def models() -> None:
    """The models of the farm, and their weights."""


for command in (list_models, fit, pull, check, prefetch, bake, export, add_lora, make_tiny):
    models.add_command(command)
