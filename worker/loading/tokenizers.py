"""Tokenizers of the tiny model, made from a list of words: nothing is trained, nothing downloaded."""

from __future__ import annotations

from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer, T5Tokenizer

# Words of prompts. Others still work: they fall into letters.
WORDS = sorted(
    """
    a an and art astronaut at background bad beach beautiful bee bird black blue blurry boat book
    bridge bright brown building bus by car castle cat chair cinematic city close cloud clouds coast
    coffee color colors concept cup dark day deep detailed digital dog dramatic drawing dusk dust
    evening fantasy field fire fish flower flowers focus fog forest fox fruit garden girl glass gold
    golden grass green grey hair hand harbour hat high hill horse hour house ice illustration in
    ink island isometric lake lamp landscape large lens light lighthouse long low macro man
    masterpiece mist moon morning mountain mountains neon night no of oil old on one open orange
    painting park path pencil people photo photograph photography picture portrait purple quality
    quiet rain realistic red reflection reflections render river road robot rocks room rose sand sea
    sharp ship sign sitting sketch sky small snow soft space spring stars still stone storm street
    studio style summer sun sunlight sunset table text that the three tiger to top tower town train
    tree trees turquoise two ugly under valley vase view village vintage wall warm water watercolor
    watermark wave waves white wide wild wind window winter with woman wood wooden worst yellow
    """.split()  # noqa: SIM905
)
WORD_END = "</w>"
START, END = "<|startoftext|>", "<|endoftext|>"


def clip_tokenizer(pad: str = END) -> CLIPTokenizer:
    """Byte-level BPE, 77 tokens. The end token has the highest id: CLIP pools at the argmax."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys(merge for word in WORDS for merge in _merges(word)))
    words = ("".join(merge) for merge in merges)
    pieces = dict.fromkeys([*letters, *(letter + WORD_END for letter in letters), *words])
    vocab = {piece: number for number, piece in enumerate([*pieces, START, END])}
    return CLIPTokenizer(vocab=vocab, merges=merges, pad_token=pad, model_max_length=77)


def _merges(word: str) -> list[tuple[str, str]]:
    """The steps that grow `word` from its letters, left to right."""
    letters = [*word[:-1], word[-1] + WORD_END]
    return [("".join(letters[:i]), letters[i]) for i in range(1, len(letters))]


def t5_tokenizer() -> T5Tokenizer:
    """Unigram over the same words and the printable characters, 512 tokens."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    words = [(f"▁{word}", -5.0) for word in WORDS]
    letters = [(letter, -10.0) for letter in ("▁", *map(chr, range(33, 127)))]
    known = {piece for piece, _ in words}
    extra = [(f"<extra_id_{i}>", 0.0) for i in reversed(range(100))]
    pieces = [*special, *words, *(piece for piece in letters if piece[0] not in known), *extra]
    return T5Tokenizer(vocab=pieces, model_max_length=512)


def use_clip_files(folder: Path, tokenizer: CLIPTokenizer) -> None:
    """Lay a saved CLIP tokenizer out as SD3.5 does: `vocab.json` and `merges.txt`."""
    tokenizer.backend_tokenizer.model.save(str(folder))
    (folder / "tokenizer.json").unlink()
