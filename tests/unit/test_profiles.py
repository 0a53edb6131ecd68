"""Profiles and refusals on cards that nobody has here: numbers are enough."""

from __future__ import annotations

from typing import Any

import pytest

from shared.catalog import load_catalog
from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading import refuse
from worker.loading.card import Card
from worker.loading.profiles import Chosen, choose, on_cpu
from worker.loading.refuse import reasons, refuse_impossible
from worker.loading.weights import known

CATALOG = load_catalog()
LARGE, MEDIUM = CATALOG.find("sd3.5-large"), CATALOG.find("sd3.5-medium")
HOPPER, ADA, AMPERE = (9, 0), (8, 9), (8, 6)


def card(gibibytes: float, capability: tuple[int, int] = ADA, cuda: str = "13.0") -> Card:
    """With 300 MB of it taken, as a process that has just begun finds it."""
    memory = round(gibibytes * 2**30)
    return Card(f"a card of {gibibytes} GB", capability, memory, memory - 300_000_000, cuda)


def chosen(entry: ModelEntry, on: Card, **changes: Any) -> Chosen:
    weights = known(entry)
    assert weights
    return choose(entry.model_copy(update=changes), on, weights)


@pytest.mark.parametrize(
    ("entry", "gibibytes", "changes", "placement", "compiled"),
    [
        (LARGE, 80, {}, "gpu", "regional"),
        (LARGE, 24, {}, "model-offload", "off"),
        (LARGE, 24, {"precision": "fp8", "t5": "int8"}, "gpu", "regional"),
        (LARGE, 22, {"precision": "fp8"}, "text-offload", "regional"),
        (LARGE, 12, {}, "group-offload", "off"),
        (LARGE, 12, {"precision": "nf4", "t5": "nf4"}, "text-offload", "regional"),
        (MEDIUM, 24, {}, "gpu", "regional"),
        (MEDIUM, 12, {}, "model-offload", "off"),
        (MEDIUM, 4, {}, "group-offload", "off"),
    ],
)
def test_auto_takes_the_fastest_placement_that_fits(
    entry: ModelEntry, gibibytes: float, changes: dict[str, str], placement: str, compiled: str
) -> None:
    found = chosen(entry, card(gibibytes), profile="auto", **changes)

    assert (found.entry.placement, found.entry.compile) == (placement, compiled)
    assert "free" in found.why


@pytest.mark.parametrize("profile", ["fast", "eco", "auto"])
@pytest.mark.parametrize("gibibytes", [24, 80])
def test_no_profile_touches_what_decides_pixels(profile: str, gibibytes: float) -> None:
    before = MEDIUM.model_copy(update={"profile": profile})

    after = chosen(before, card(gibibytes)).entry

    assert after.digest == before.digest == MEDIUM.digest
    changed = {n for n in ModelEntry.model_fields if getattr(after, n) != getattr(before, n)}
    assert changed <= {"placement", "compile", "profile"}


def test_fast_and_eco_are_what_they_say() -> None:
    fast, eco = (chosen(LARGE, card(80), profile=name).entry for name in ("fast", "eco"))

    assert (fast.placement, fast.compile) == ("gpu", "regional")
    assert (eco.placement, eco.compile) == ("model-offload", "off")


@pytest.mark.parametrize("profile", ["fast", "eco", "auto"])
def test_on_a_cpu_every_profile_is_the_plain_way(profile: str) -> None:
    found = on_cpu(MEDIUM.model_copy(update={"profile": profile}))

    assert (found.entry.placement, found.entry.compile) == ("gpu", "off")
    assert found.why


def test_without_a_profile_an_entry_stays_as_it_is() -> None:
    assert chosen(LARGE, card(80)) == Chosen(LARGE)
    assert on_cpu(LARGE) == Chosen(LARGE)


@pytest.mark.parametrize(
    ("entry", "on", "changes", "advice"),
    [
        (LARGE, card(12), {}, "precision to nf4 and t5 to off, or placement to group-offload"),
        (LARGE, card(24), {}, "t5 to nf4, or placement to model-offload"),
        (
            LARGE,
            card(16),
            {"profile": "fast"},
            "precision to nf4 and t5 to int8, or placement to g",
        ),
        (
            LARGE,
            card(12),
            {"placement": "model-offload"},
            "precision to fp8, or placement to group",
        ),
        (LARGE, card(14), {"profile": "eco"}, "precision to fp8, or placement to group-offload"),
        (
            LARGE,
            card(14, AMPERE),
            {"profile": "eco"},
            "precision to int8, or placement to group-off",
        ),
        (MEDIUM, card(12), {}, "precision to fp8 and t5 to nf4, or placement to model-offload"),
        (LARGE, card(10), {"precision": "int8"}, "precision to nf4 and t5 to off, or placement"),
    ],
)
def test_too_small_a_card_is_refused_with_the_change_that_would_fit(
    entry: ModelEntry, on: Card, changes: dict[str, str], advice: str
) -> None:
    with pytest.raises(ModelError, match=f"set {advice}") as refused:
        chosen(entry, on, **changes)

    told = str(refused.value)
    assert f"{on.name} has" in told
    assert "GB of transformer" in told


def test_where_nothing_at_all_fits_auto_says_so() -> None:
    with pytest.raises(ModelError, match="larger card, or smaller pictures"):
        chosen(LARGE, card(2), profile="auto")


def test_memory_that_others_hold_counts_for_auto_only() -> None:
    busy = Card("busy", ADA, 85_000_000_000, 20_000_000_000, "13.0")

    assert chosen(LARGE, busy, profile="auto").entry.placement == "model-offload"
    assert chosen(LARGE, busy).entry.placement == "gpu", "it may end before this worker begins"


@pytest.mark.parametrize(
    ("changes", "on", "told"),
    [
        ({"precision": "fp8"}, None, "a CPU cannot .* set precision to fp8-storage or int8"),
        ({"precision": "fp8"}, card(24, AMPERE), r"capability 8\.6"),
        ({"precision": "fp8"}, card(80, (8, 0)), r"capability 8\.0"),
        ({"precision": "fp8"}, card(80, HOPPER, "12.9"), r"CUDA 12\.9 is known to be wrong"),
        ({"precision": "nf4"}, None, "nf4 needs a GPU"),
        ({"placement": "text-offload"}, None, "this worker has no GPU"),
        ({"placement": "model-offload"}, None, "this worker has no GPU"),
        ({"placement": "group-offload"}, None, "this worker has no GPU"),
        ({"placement": "sequential-offload"}, None, "this worker has no GPU"),
        ({"placement": "sequential-offload", "precision": "int8"}, card(8), "unquantized weights"),
        ({"placement": "sequential-offload", "t5": "nf4"}, card(8), "unquantized weights"),
        ({"placement": "sequential-offload", "compile": "regional"}, card(8), "compile to off"),
        ({"placement": "group-offload", "compile": "regional"}, card(8), "compile to off"),
        ({"placement": "model-offload", "compile": "full"}, card(8), "keeps addresses"),
        (
            {"fuse_qkv": True, "precision": "int8"},
            None,
            "fuse_qkv joins weights of .*, not of int8",
        ),
        ({"attention": "cudnn"}, None, "attention cudnn needs a GPU"),
        ({"attention": "flash3"}, None, "attention flash3 needs a GPU"),
        ({"attention": "flash3"}, card(80, HOPPER), "built by hand"),
        ({"precision": "gguf"}, None, "name it in gguf_file"),
        ({"gguf_file": "x.gguf"}, None, "set precision to gguf"),
        ({"profile": "eco", "placement": "gpu"}, card(8), "profile eco sets placement"),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_with_the_way_out(
    changes: dict[str, Any], on: Card | None, told: str
) -> None:
    entry = ModelEntry.model_validate({"id": "m", "source": "hf:a/b", **changes})

    with pytest.raises(ModelError, match=f"^m cannot be served here: .*{told}"):
        refuse_impossible(entry, on)


@pytest.mark.parametrize(
    ("changes", "package"),
    [
        ({"precision": "fp8"}, "torchao"),
        ({"precision": "int8"}, "torchao"),
        ({"t5": "fp8"}, "torchao"),
        ({"precision": "nf4"}, "bitsandbytes"),
        ({"t5": "int8"}, "bitsandbytes"),
        ({"t5": "nf4"}, "bitsandbytes"),
        ({"precision": "gguf", "gguf_file": "x"}, "gguf"),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else value,
)
def test_a_package_that_is_missing_is_named(
    changes: dict[str, str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = ModelEntry.model_validate({"id": "m", "source": "hf:a/b", **changes})
    assert not reasons(entry, card(80, HOPPER))

    monkeypatch.setattr(refuse, "find_spec", lambda name: None if name == package else object())

    assert [
        f"needs the package {package}" in told for told in reasons(entry, card(80, HOPPER))
    ] == [True]


@pytest.mark.parametrize(
    ("changes", "on"),
    [
        ({"precision": "fp8", "compile": "full"}, card(80, HOPPER)),
        ({"precision": "fp8"}, card(24, ADA, "12.8")),
        ({"precision": "nf4", "t5": "nf4", "placement": "model-offload"}, card(8, AMPERE)),
        ({"precision": "int8", "placement": "group-offload"}, card(8)),
        ({"placement": "text-offload", "compile": "full"}, card(24)),
        ({"placement": "sequential-offload"}, card(8)),
        ({"precision": "fp8-storage", "t5": "fp8"}, None),
        ({"precision": "fp16", "t5": "int8"}, None),
        ({"engine": "onnx", "source": "dir:m", "precision": "int8"}, None),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_what_can_be_is_not_refused(changes: dict[str, str], on: Card | None) -> None:
    assert reasons(ModelEntry.model_validate({"id": "m", "source": "hf:a/b", **changes}), on) == []


def test_fp8_by_row_always_has_the_bfloat16_that_it_wants() -> None:
    assert LARGE.model_copy(update={"precision": "fp8"}).compute_precision == "bf16"


def test_every_reason_is_told_at_once() -> None:
    entry = LARGE.model_copy(update={"precision": "nf4", "placement": "model-offload"})

    assert len(reasons(entry, None)) == 2


def test_the_shipped_entries_can_be_served_on_a_cpu_and_on_a_card() -> None:
    for entry in CATALOG.entries.values():
        assert reasons(entry, None) == reasons(entry, card(80)) == []
