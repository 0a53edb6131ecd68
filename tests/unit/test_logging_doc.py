"""docs/logging.md says what the code logs, and at which level; docs/tracing.md what spans say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from shared.traces import NAMES

ROOT = Path(__file__).parents[2]
PACKAGES = ("api", "worker", "shared", "cli", "deploy")
LEVELS = {"DEBUG", "INFO", "WARNING", "ERROR"}
# Where the action is a variable, what it can be; the level of these is chosen there, too.
CHOSEN = {
    "worker/fail.py": {"failed", "retrying", "lost"},
    "worker/duty.py": {"draining", "quarantined"},
    "worker/render.py": set(),
    "worker/chores.py": set(),
}
# What logs an event: (the argument that is its action, the one that is its level).
EVERYWHERE = {"event": (1, 2), "logs.event": (1, 2)}
BY_FILE = {
    "worker/render.py": {"self._ended": (0, 2)},
    "worker/chores.py": {"self._note": (0, 1)},
}


def calls() -> Iterator[tuple[str, ast.expr, str]]:
    """(file, action, level) of every event in the code."""
    for package in PACKAGES:
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            logging = EVERYWHERE | BY_FILE.get(name, {})
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.Call) and (at := logging.get(ast.unparse(node.func))):
                    yield name, node.args[at[0]], level(node.args[at[1] :])


def level(given: list[ast.expr]) -> str:
    word = ast.unparse(given[0]) if given else "logging.INFO"
    return word.removeprefix("logging.")


def logged() -> dict[str, set[str]]:
    """The levels of each action that the code spells."""
    found: dict[str, set[str]] = {}
    for _, action, at in calls():
        if isinstance(action, ast.Constant):
            found.setdefault(action.value, set()).update({at} & LEVELS)
    return found


def documented() -> dict[str, set[str]]:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \| ([A-Z, ]+) \|", page("logging"), re.MULTILINE)
    return {
        name: set(levels.split(", "))
        for names, levels in rows
        for name in names.replace("`", "").split(", ")
    }


def page(name: str) -> str:
    return (ROOT / f"docs/{name}.md").read_text("utf-8")


def test_every_action_stands_in_the_page_with_its_level() -> None:
    told, chosen = documented(), set().union(*CHOSEN.values())

    wrong = {a: levels for a, levels in logged().items() if not levels <= told.get(a, set())}
    assert not wrong
    assert chosen <= set(told)


def test_the_page_names_no_action_that_is_gone() -> None:
    assert set(documented()) - set(logged()) - set().union(*CHOSEN.values()) == set()


def test_actions_are_chosen_by_a_variable_only_where_this_test_knows_it() -> None:
    assert {name for name, action, _ in calls() if not isinstance(action, ast.Constant)} == set(
        CHOSEN
    )


def test_every_name_that_a_span_may_say_stands_in_the_page() -> None:
    assert set(re.findall(r"^\| `([a-z.]+[a-z._]*)` \|", page("tracing"), re.MULTILINE)) == set(
        NAMES.values()
    )
