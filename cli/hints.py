"""What a farm on this machine tells its owner to open and to paste."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from shared.models import ModelEntry
from shared.settings import Settings

PROMPT = "a lighthouse at dusk"


def base_url(settings: Settings) -> str:
    """The API as this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def how_to_use(settings: Settings, entry: ModelEntry) -> str:
    """What to open, what to paste. Says nothing secret: a key is named by its variable."""
    url = base_url(settings)
    key = (
        ' -H "Authorization: Bearer $RENDERFARM_KEY"'
        if settings.api_keys.get_secret_value()
        else ""
    )
    return "\n".join(
        [
            f"ready: model {entry.id}, data in {settings.data_dir}, logs in {settings.data_dir / 'logs'}",
            f"  page  {url}/",
            f"  docs  {url}/docs",
            f"  API   {url}/jobs",
            *(["  RENDERFARM_KEY must hold one of FARM_API_KEYS' keys for these:"] if key else []),
            "",
            curl_line(url, key),
            "",
            f'{program()} render "{PROMPT}" --seed 42 -o out/ --url {url}',
            "",
            "Ctrl-C ends the farm.",
        ]
    )


def curl_line(url: str, key: str = "") -> str:
    """One line of POSIX shell: order a job, ask for its picture until it is there."""
    order = f"""'{{"prompt": "{PROMPT}"}}'"""
    return (
        f"job=$(curl -sS{key} {url}/jobs -H 'Content-Type: application/json' -d {order}"
        " | grep -o 'job_[0-9A-Z]*' | head -n 1)"
        f"; while [ \"$(curl -sS{key} -o lighthouse.png -w '%{{http_code}}' {url}/jobs/$job/result)\""
        " = 202 ]; do sleep 0.2; done; ls -l lighthouse.png"
    )


def program() -> str:
    """How this command is typed here: by name, or by path where the environment is not active."""
    script = Path(sys.executable).parent / "renderfarm"
    if shutil.which("renderfarm") or not script.exists():
        return "renderfarm"
    here = Path.cwd()
    return str(script.relative_to(here) if script.is_relative_to(here) else script)
