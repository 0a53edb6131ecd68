"""Pictures as files: PNG masters that say how they were made, and other formats made of them.

A picture carries two texts. `parameters` is a line of settings under the prompts, as the web UI
AUTOMATIC1111 writes it and most tools read it; `renderfarm` is JSON, and exact. In PNG they are
text chunks, in JPEG and WebP the EXIF fields UserComment and ImageDescription. Neither ever holds
an owner, a key, a host or a path.
"""

from __future__ import annotations

import io
import json
import re
from importlib import metadata
from typing import Any, Literal

from PIL import Image, PngImagePlugin
from pydantic_core import from_json

from shared.errors import InvalidOrder
from shared.headers import read_header
from shared.jobs import Record, RenderSpec

Format = Literal["png", "webp", "jpeg"]
NOISE_NOTE = "random weights: this picture is noise"
# What the exact account says beside the fields of its order.
NOTES = ("version", "fingerprint", "mode", "profile", "random_weights", "note")

_EXIF_IFD, _USER_COMMENT, _IMAGE_DESCRIPTION = 0x8769, 0x9286, 0x010E
_UNICODE = b"UNICODE\0"
_JPEG_EXIF_BYTES = 65_533  # one APP1 segment
_NEGATIVE = "Negative prompt:"
# One `Name: value` of the settings line; a value with a comma, colon or newline is a JSON string.
# Without bounds a long line without a colon would take the square of its length.
_SETTING = re.compile(r'(\w[\w \-/]{1,99}):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
MOST_SETTINGS = 2**16  # characters in the line of settings


class PictureInfo(Record):
    """What a picture says of itself."""

    spec: RenderSpec
    fingerprint: str
    random_weights: bool = False
    profile: dict[str, str] = {}  # what moved rounding: dtype, device, library versions

    @classmethod
    def of(
        cls,
        spec: RenderSpec,
        fingerprint: str,
        *,
        random_weights: bool = False,
        profile: dict[str, str] | None = None,
    ) -> PictureInfo:
        return cls(
            spec=spec,
            fingerprint=fingerprint,
            random_weights=random_weights,
            profile=profile or {},
        )

    def details(self) -> dict[str, Any]:
        """The exact account, for JSON."""
        noise = {"random_weights": True, "note": NOISE_NOTE} if self.random_weights else {}
        return {
            "version": _version(),
            "fingerprint": self.fingerprint,
            "mode": self.spec.mode,
            **self.spec.model_dump(mode="json"),
            "profile": self.profile,
            **noise,
        }


def encode_png(rgb: bytes, width: int, height: int, info: PictureInfo) -> bytes:
    """`rgb` is uint8, (height, width, 3). Level 1: a third of the default's time, 5 % more bytes."""
    texts = PngImagePlugin.PngInfo()  # tEXt where Latin-1 is enough, else iTXt
    texts.add_text("parameters", infotext(info))
    texts.add_text("renderfarm", json.dumps(info.details()))
    file = io.BytesIO()
    image = Image.frombytes("RGB", (width, height), rgb)
    image.save(file, "PNG", pnginfo=texts, compress_level=1)
    return file.getvalue()


def convert(png: bytes, format: Format, compression: int) -> bytes:
    """The same picture, with the same texts, in another format.

    `compression` is the quality of WebP and JPEG, 0 to 100. A PNG comes back as it is.
    """
    if format == "png":
        return png
    file = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        exif = _exif(image.info, _JPEG_EXIF_BYTES if format == "jpeg" else None)
        # Pillow takes a JPEG quality of 0 for "not given".
        image.convert("RGB").save(file, format, quality=max(1, compression), exif=exif)
    return file.getvalue()


def read_info(data: bytes) -> dict[str, Any]:
    """The texts of a PNG, JPEG or WebP: `parameters`, a string, and `renderfarm`, a dictionary.

    Each is there only if the file has it. Raises InvalidOrder for what is not a picture.
    """
    try:
        read_header(data)  # before a decoder walks through chunks without end
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as image:
            texts = _png_texts(image) if image.format == "PNG" else _exif_texts(image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's ways to say so
        raise InvalidOrder("invalid_image", "this is not a PNG, JPEG or WebP picture") from error
    try:
        document = from_json(texts.get("renderfarm", ""), allow_inf_nan=False)
    except ValueError:
        document = None
    found: dict[str, Any] = {k: v for k, v in texts.items() if k == "parameters" and v}
    return found | ({"renderfarm": document} if isinstance(document, dict) else {})


def infotext(info: PictureInfo) -> str:
    """Prompt, `Negative prompt: ...`, and one line of settings. Newlines in prompts stay."""
    spec = info.spec
    settings: dict[str, object] = {
        "Steps": spec.steps,
        "Sampler": "Euler",
        "Schedule type": "Simple",
        "CFG scale": spec.guidance_scale,
        "Seed": spec.seed,
        "Size": f"{spec.width}x{spec.height}",
        "Shift": spec.shift,
        "Model": spec.model,
        "Model hash": spec.model_digest[:10],
        "Version": _version(),
    }
    if spec.init_image_sha256:
        settings["Denoising strength"] = spec.strength
        settings["Init image hash"] = spec.init_image_sha256[:10]
    if spec.mask_image_sha256:
        settings["Mask image hash"] = spec.mask_image_sha256[:10]
    if spec.skip_layer_guidance:
        settings["Skip layer guidance"] = spec.skip_layer_guidance
    if spec.loras:
        hashes = (f"{lora.name}: {lora.sha256[:10]}" for lora in spec.loras)
        settings["Lora hashes"] = ", ".join(hashes)
    if spec.preset != "exact":
        settings["Preset"] = spec.preset
    if info.random_weights:
        settings["Note"] = NOISE_NOTE
    # as the web UI's own users write them, so that the text can be ordered there again
    tags = [f"<lora:{lora.name}:{lora.scale:g}>" for lora in spec.loras]
    lines = [" ".join([spec.prompt, *tags])]
    if spec.negative_prompt:
        lines.append(f"{_NEGATIVE} {spec.negative_prompt}")
    lines.append(", ".join(f"{name}: {_quoted(value)}" for name, value in settings.items()))
    return "\n".join(lines)


def parse_infotext(text: str) -> dict[str, str]:
    """`prompt`, `negative_prompt` and the settings, all as text; the rules are the web UI's.

    Blanks round the lines of a prompt are lost, and a prompt's own line `Negative prompt:` is
    taken for the negative prompt: only the JSON beside it is exact.
    """
    *lines, last = text.strip().split("\n")
    found = _SETTING.findall(last) if len(last) <= MOST_SETTINGS else []
    if len(found) < 3:
        lines, found = [*lines, last], []
    prompts: dict[str, list[str]] = {"prompt": [], "negative_prompt": []}
    side = "prompt"
    for line in map(str.strip, lines):
        if line.startswith(_NEGATIVE):
            side = "negative_prompt"
            line = line.removeprefix(_NEGATIVE).strip()
        prompts[side].append(line)
    joined = {name: "\n".join(parts).strip() for name, parts in prompts.items()}
    return joined | {name: _unquoted(value.strip()) for name, value in found}


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",:\n") else text


def _unquoted(text: str) -> str:
    if not text.startswith('"'):
        return text
    try:
        return str(from_json(text))
    except ValueError:
        return text


def _version() -> str:
    try:
        return f"renderfarm {metadata.version('renderfarm')}"
    except metadata.PackageNotFoundError:  # run from a folder, not installed
        return "renderfarm"


def _exif(texts: dict[Any, Any], limit_bytes: int | None) -> Image.Exif:
    """The texts as EXIF. Where both are too long for the format, the JSON goes first."""
    comment = _UNICODE + str(texts.get("parameters", "")).encode("utf-16-be")
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    exif[_IMAGE_DESCRIPTION] = str(texts.get("renderfarm", ""))
    if limit_bytes and len(exif.tobytes()) > limit_bytes:
        del exif[_IMAGE_DESCRIPTION]
    if limit_bytes and len(exif.tobytes()) > limit_bytes:
        return Image.Exif()
    return exif


def _png_texts(image: Image.Image) -> dict[str, str]:
    return {str(key): str(value) for key, value in image.info.items()}


def _exif_texts(image: Image.Image) -> dict[str, str]:
    exif = image.getexif()
    comment = exif.get_ifd(_EXIF_IFD).get(_USER_COMMENT, b"")
    text = ""
    if isinstance(comment, bytes) and comment.startswith(_UNICODE):
        text = comment.removeprefix(_UNICODE).decode("utf-16-be", "replace")
    return {"parameters": text, "renderfarm": str(exif.get(_IMAGE_DESCRIPTION, ""))}
