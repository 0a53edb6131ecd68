"""What an entry asks that cannot be, on this card or anywhere: said before anything is fetched.

What an engine cannot do on any machine is refused where the entry is read: shared/engines.py.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from shared.errors import ModelError
from shared.models import ModelEntry
from worker.loading.card import Card

Rule = Callable[[ModelEntry, Card | None], str | None]
_TORCHAO, _BNB = "torchao", "bitsandbytes"
_LAYER_BY_LAYER = ("group-offload", "sequential-offload")
_MOVES_DRAWING = ("model-offload", *_LAYER_BY_LAYER)
_RESTS_ON_HOST = ("text-offload", *_MOVES_DRAWING)
_JOINED = ("fp32", "bf16", "fp16", "fp8")


def refuse_impossible(entry: ModelEntry, card: Card | None) -> None:
    """Raise ModelError with every reason; `card` is None on a CPU."""
    if found := reasons(entry, card):
        raise ModelError(f"{entry.id} cannot be served here: {'; '.join(found)}")


def reasons(entry: ModelEntry, card: Card | None) -> list[str]:
    """One sentence for each rule that is broken."""
    return [reason for rule in RULES if (reason := rule(entry, card))]


def _profile_alone(entry: ModelEntry, _card: Card | None) -> str | None:
    both = {"placement", "compile"} & entry.model_fields_set
    if entry.profile and both:
        return f"profile {entry.profile} sets {' and '.join(sorted(both))}, so leave one of the two out"
    return None


def _gguf(entry: ModelEntry, _card: Card | None) -> str | None:
    if entry.precision == "gguf" and not entry.gguf_file:
        return "precision gguf reads one file, so name it in gguf_file"
    if entry.gguf_file and entry.precision != "gguf":
        return f"gguf_file is not read with precision {entry.precision}: set precision to gguf"
    return None


def _installed(entry: ModelEntry, _card: Card | None) -> str | None:
    for package, asking in _packages(entry).items():
        if asking and find_spec(package) is None:
            return f"{asking} needs the package {package}: pip install 'renderfarm[worker]'"
    return None


def _packages(entry: ModelEntry) -> dict[str, str]:
    ao = entry.precision in ("fp8", "int8") and entry.engine == "diffusers"
    bnb = entry.precision == "nf4"
    precision, t5 = f"precision {entry.precision}", f"t5 {entry.t5}"
    return {
        _TORCHAO: precision if ao else t5 if entry.t5 == "fp8" else "",
        _BNB: precision if bnb else t5 if entry.t5 in ("int8", "nf4") else "",
        "gguf": precision if entry.precision == "gguf" else "",
    }


def _fp8(entry: ModelEntry, card: Card | None) -> str | None:
    if entry.precision != "fp8":
        return None
    if card is None or not card.multiplies_fp8:
        return (
            f"precision fp8 multiplies in FP8, which {_told(card)} cannot (it takes capability "
            "8.9: Ada, Hopper or later): set precision to fp8-storage or int8"
        )
    if card.cuda.split(".")[:2] == ["12", "9"]:
        return "CUDA 12.9 is known to be wrong in FP8 by row: use another build of torch"
    return None


def _nf4(entry: ModelEntry, card: Card | None) -> str | None:
    if entry.precision == "nf4" and card is None:
        return "precision nf4 needs a GPU, and this worker has none: set precision to int8 or gguf"
    return None


def _offload(entry: ModelEntry, card: Card | None) -> str | None:
    if entry.placement in _RESTS_ON_HOST and card is None:
        return (
            f"placement {entry.placement} moves weights between host and GPU memory, and this "
            "worker has no GPU: set placement to gpu, which a CPU takes as well"
        )
    return None


def _sequential(entry: ModelEntry, _card: Card | None) -> str | None:
    """accelerate moves plain tensors by name: what a library packed would not survive."""
    packed = entry.precision not in ("fp32", "bf16", "fp16") or entry.t5 not in ("on", "off")
    if entry.placement == "sequential-offload" and packed:
        return (
            "sequential-offload moves unquantized weights only: set placement to model-offload or "
            "group-offload"
        )
    return None


def _compile(entry: ModelEntry, _card: Card | None) -> str | None:
    place = entry.placement
    if entry.compile == "full" and place in _MOVES_DRAWING:
        return f"compile full keeps addresses that {place} changes: set compile to regional or off"
    if entry.compile == "regional" and place in _LAYER_BY_LAYER:
        return f"{place} works between the layers that compile would join: set compile to off"
    return None


def _attention(entry: ModelEntry, card: Card | None) -> str | None:
    if entry.attention in ("cudnn", "flash3") and card is None:
        return f"attention {entry.attention} needs a GPU: set attention to auto"
    if entry.attention == "flash3" and find_spec("flash_attn_interface") is None:
        return "attention flash3 needs FlashAttention 3, which is built by hand: set it to auto"
    return None


def _fused(entry: ModelEntry, _card: Card | None) -> str | None:
    if entry.fuse_qkv and entry.precision not in _JOINED:
        return f"fuse_qkv joins weights of {', '.join(_JOINED)}, not of {entry.precision}: leave it out"
    return None


def _told(card: Card | None) -> str:
    if card is None:
        return "a CPU"
    return f"{card.name} (capability {card.capability[0]}.{card.capability[1]})"


RULES: tuple[Rule, ...] = (
    _profile_alone, _gguf, _installed, _fp8, _nf4, _offload, _sequential, _compile, _attention,
    _fused,
)  # fmt: skip
