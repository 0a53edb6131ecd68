"""What deploy/compose/compose.yaml says, with the values of .env.example."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.manifests import DEPLOY

COMPOSE = DEPLOY / "compose"
TEXT = (COMPOSE / "compose.yaml").read_text("utf-8")
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (COMPOSE / ".env.example").read_text("utf-8"), re.M))
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^}]*))?\}")
OURS = [name for name, service in SERVICES.items() if "renderfarm-" in service["image"]]


def filled(text: str) -> str:
    """As compose does with the values of .env.example."""

    def value(found: re.Match[str]) -> str:
        default = found[3] if found[2] == ":-" else ""
        return EXAMPLE.get(found[1], "") or default

    return VARIABLE.sub(value, text).replace("$$", "$")
