"""Whether a folder's tokenizers can be read, and know no more words than their encoders."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from worker.loading.findings import Findings

_MOST_TOKENS = 100_000  # what transformers writes for "no limit" is far above
_ENCODERS = {
    "tokenizer": "text_encoder",
    "tokenizer_2": "text_encoder_2",
    "tokenizer_3": "text_encoder_3",
}


def look_at_tokenizer(found: Findings, part: str) -> int:
    """How many words it knows, 0 where that cannot be told; faults go to `found`."""
    limit = found.json(f"{part}/tokenizer_config.json").get("model_max_length")
    if not found.wrong(part) and not (isinstance(limit, int) and 0 < limit < _MOST_TOKENS):
        name = f"{part}/tokenizer_config.json"
        found.add(part, "no_max_length", f"{name} has no model_max_length that makes sense")
    words = _words_of(found, part)
    if words is None:
        return 0
    if not words:
        found.add(part, "empty_vocabulary", f"{part} knows no words")
    return max(words.values(), default=-1) + 1


def compare_words(found: Findings, part: str, words: int, encoder: dict[str, Any]) -> None:
    rows = encoder.get("vocab_size")
    if isinstance(rows, int) and words > rows:
        message = f"{part} has {words} words, but {_ENCODERS[part]} has embeddings for {rows}"
        found.add(part, "vocabulary", message)


def _words_of(found: Findings, part: str) -> dict[str, int] | None:
    """None where it cannot be read: what is missing or damaged is a fault by then."""
    if found.has(f"{part}/tokenizer.json"):
        return _whole(found, part, f"{part}/tokenizer.json", _from_json)
    if part == "tokenizer_3":
        return _sentencepiece(found, part)
    missing = [name for name in ("vocab.json", "merges.txt") if not found.has(f"{part}/{name}")]
    if missing:
        message = f"{part} has no tokenizer.json, and no {' and no '.join(missing)} either"
        found.add(part, "missing_file", message)
        return None
    return _whole(found, part, f"{part}/vocab.json with merges.txt", _from_merges)


def _sentencepiece(found: Findings, part: str) -> dict[str, int] | None:
    if not found.has(f"{part}/spiece.model"):
        message = f"{part} has neither tokenizer.json nor spiece.model"
        found.add(part, "missing_file", message)
        return None
    lost = [name for name, module in _PACKAGES.items() if find_spec(module) is None]
    if lost:
        message = (
            f"{part} has only spiece.model: install {' and '.join(lost)}, or add its tokenizer.json"
        )
        found.add(part, "missing_package", message)
        return None
    return _whole(found, part, f"{part}/spiece.model", _from_pieces)


_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf"}


def _whole(found: Findings, part: str, name: str, read: Any) -> dict[str, int] | None:
    """`read` the words of the part; any error of its library is one fault."""
    if find_spec("tokenizers") is None:  # an installation without the worker's packages
        return None
    try:
        words: dict[str, int] = read(found.folder / part)
    except Exception as error:  # tokenizers raises bare Exceptions
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        found.add(part, "bad_tokenizer", f"{name} is damaged: {why}")
        return None
    return words


def _from_json(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer

    words: dict[str, int] = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab()
    return words


def _from_merges(folder: Path) -> dict[str, int]:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE

    model = BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    words: dict[str, int] = Tokenizer(model).get_vocab()
    return words


def _from_pieces(folder: Path) -> dict[str, int]:
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    return {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
