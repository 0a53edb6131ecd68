"""`python -m deploy.grafana` writes the dashboards; with `--check` it says which are out of step."""

from __future__ import annotations

import sys
from pathlib import Path

from deploy.grafana import clients, overview, queue, stores, workers

BOARDS = (overview.BOARD, workers.BOARD, clients.BOARD, queue.BOARD, stores.BOARD)
FOLDER = Path(__file__).parent / "dashboards"


def file_of(uid: str) -> Path:
    return FOLDER / f"{uid}.json"


def stale() -> list[str]:
    """Files that are not what the code writes, are missing, or belong to no dashboard."""
    written = {file_of(board.uid): board.json() for board in BOARDS}
    found = {file: file.read_text("utf-8") for file in FOLDER.glob("*.json")}
    return sorted(f.name for f in written.keys() | found.keys() if written.get(f) != found.get(f))


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        if names := stale():
            print("run python -m deploy.grafana:", *names, file=sys.stderr)  # noqa: T201
        return int(bool(names))
    for board in BOARDS:
        file_of(board.uid).write_text(board.json(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
