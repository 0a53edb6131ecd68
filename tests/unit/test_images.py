"""Pictures say how they were made, in every format, and can be read back."""

from __future__ import annotations

import io
import json
import time

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from shared.errors import InvalidOrder
from shared.images import PictureInfo, convert, encode_png, infotext, parse_infotext, read_info
from shared.jobs import RenderSpec

RGB = bytes(range(256)) * 3  # 16 x 16
ODD = [
    "\n",
    ",",
    '"',
    "\\",
    ":",
    "Negative prompt:",
    "Steps: 3, Seed: 9, Size: 1x1",
    "é",
    "狐",
    "🦊",
]
odd_prompts = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=8)), max_size=8).map(
    "".join
)


def info(prompt="a fox", negative_prompt="", **changes):
    fields = {"width": 16, "height": 16, "steps": 4, "guidance_scale": 4.5, "shift": 3.0, "seed": 7}
    spec = RenderSpec(
        model="tiny",
        model_digest="0123456789abcdef",
        prompt=prompt,
        negative_prompt=negative_prompt,
        **fields | changes,
    )
    return PictureInfo.of(spec, "f" * 64, profile={"dtype": "fp32"})


def png(about):
    return encode_png(RGB, 16, 16, about)


def as_read_by_tools(prompt):
    """What is left of a prompt in the web UI's format: no blanks round its lines."""
    return "\n".join(line.strip() for line in prompt.split("\n")).strip()


def test_the_png_holds_exactly_the_pixels_that_were_rendered():
    with Image.open(io.BytesIO(png(info()))) as image:
        assert (image.size, image.mode, image.tobytes()) == ((16, 16), "RGB", RGB)


def test_the_parameters_are_what_the_web_ui_writes():
    assert infotext(info("a fox,\nrunning", "blurry")).startswith(
        "a fox,\nrunning\nNegative prompt: blurry\n"
        "Steps: 4, Sampler: Euler, Schedule type: Simple, CFG scale: 4.5, Seed: 7, Size: 16x16, "
        "Shift: 3.0, Model: tiny, Model hash: 0123456789, Version: renderfarm"
    )


def test_without_a_negative_prompt_there_is_no_line_for_it():
    assert "Negative" not in infotext(info())


def test_a_setting_with_a_colon_is_quoted_and_read_back():
    noise = info().model_copy(update={"random_weights": True})

    assert 'Note: "random weights: this picture is noise"' in infotext(noise)
    assert parse_infotext(infotext(noise))["Note"] == "random weights: this picture is noise"


@given(odd_prompts, odd_prompts)
def test_no_prompt_can_change_what_the_settings_say(prompt, negative):
    read = parse_infotext(infotext(info(prompt, negative)))

    assert (read["Steps"], read["Seed"], read["Size"], read["Model"]) == ("4", "7", "16x16", "tiny")


@given(odd_prompts, odd_prompts)
def test_prompts_survive_the_infotext_but_for_blanks_round_their_lines(prompt, negative):
    assume("Negative prompt:" not in prompt + negative)

    read = parse_infotext(infotext(info(prompt, negative)))

    assert read["prompt"] == as_read_by_tools(prompt)
    assert read["negative_prompt"] == as_read_by_tools(negative)


@given(odd_prompts, odd_prompts)
def test_the_json_gives_back_every_prompt_exactly_from_a_png(prompt, negative):
    about = info(prompt, negative)

    assert read_info(png(about)) == {"parameters": infotext(about), "renderfarm": about.details()}


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
@given(prompt=odd_prompts)
def test_another_format_carries_the_same_texts(kind, prompt):
    about = info(prompt)

    assert read_info(convert(png(about), kind, 80)) == read_info(png(about))


def test_text_without_info_is_still_read_as_a_prompt():
    assert parse_infotext("a fox\nin snow") == {"prompt": "a fox\nin snow", "negative_prompt": ""}


@pytest.mark.parametrize("text", ["A" * 2**20, "b" + " " * 2**20 + "b", "A " * 2**15])
def test_a_long_line_of_a_stranger_is_read_in_time(text):
    begun = time.monotonic()

    assert parse_infotext(text)["prompt"] == text.strip()
    assert time.monotonic() - begun < 2  # hours, where the time grew with the square


@pytest.mark.parametrize("text", ['{"a":"\\ud800"}', "[" * 50_000, '{"a":NaN}'])
def test_json_that_no_answer_could_carry_is_passed_over(text):
    texts = PngInfo()
    texts.add_text("renderfarm", text)
    texts.add_text("parameters", 'a fox\nSteps: "\\ud800", Seed: 7, Size: 8x8')
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=texts)

    found = read_info(file.getvalue())

    assert list(found) == ["parameters"]
    assert parse_infotext(found["parameters"])["Steps"] == r'"\ud800"'


def test_latin_text_takes_a_plain_chunk_and_other_text_an_international_one():
    assert b"tEXtparameters" in png(info("café"))
    assert b"iTXtparameters" in png(info("狐"))


def test_the_user_comment_is_utf_16_behind_its_prefix():
    with Image.open(io.BytesIO(convert(png(info("狐")), "jpeg", 90))) as image:
        comment = image.getexif().get_ifd(0x8769)[0x9286]

    assert comment.startswith(b"UNICODE\0" + "狐\nSteps: 4".encode("utf-16-be"))


def test_a_png_is_converted_to_png_by_leaving_it_alone():
    data = png(info())

    assert convert(data, "png", 100) is data


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_lower_quality_makes_a_smaller_file(kind):
    noise = encode_png(bytes((i * i * 7919 >> 5) % 256 for i in range(64 * 64 * 3)), 64, 64, info())

    sizes = [len(convert(noise, kind, quality)) for quality in (0, 50, 100)]

    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[2]


def test_a_jpeg_of_a_very_long_prompt_keeps_the_parameters_and_then_nothing_rather_than_fail():
    long, too_long = png(info("狐" * 20_000)), png(info("狐" * 32_000, "狐" * 32_000))

    assert read_info(convert(long, "jpeg", 80)) == {"parameters": read_info(long)["parameters"]}
    assert read_info(convert(too_long, "jpeg", 80)) == {}
    assert read_info(convert(too_long, "webp", 80)) == read_info(too_long)


def test_only_a_picture_of_random_weights_says_so():
    noise = info().model_copy(update={"random_weights": True}).details()

    assert noise["random_weights"] is True
    assert "noise" in noise["note"]
    assert "random_weights" not in info().details()


def test_what_is_no_picture_is_refused():
    with pytest.raises(InvalidOrder):
        read_info(b"GIF89a or not")
    with pytest.raises(InvalidOrder):
        read_info(png(info())[:20])


def test_a_picture_from_elsewhere_has_nothing_to_tell():
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, "PNG")

    assert read_info(file.getvalue()) == {}


def test_the_details_are_plain_json():
    assert json.loads(json.dumps(info().details())) == info().details()


def test_a_picture_made_from_another_says_so():
    about = info(init_image_sha256="a1" * 32, mask_image_sha256="b2" * 32, strength=0.6)

    told = parse_infotext(infotext(about))

    assert told["Denoising strength"] == "0.6"
    assert told["Init image hash"] == "a1" * 5
    assert told["Mask image hash"] == "b2" * 5
    exact = read_info(png(about))["renderfarm"]
    assert (exact["mode"], exact["strength"]) == ("inpaint", 0.6)
    assert (exact["init_image_sha256"], exact["mask_image_sha256"]) == ("a1" * 32, "b2" * 32)
    assert read_info(png(info()))["renderfarm"]["mode"] == "txt2img"
