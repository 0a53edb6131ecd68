"""Any change that changes pixels changes the fingerprint, and nothing else does."""

from __future__ import annotations

from typing import Any

from hypothesis import assume, given
from hypothesis import strategies as st

from shared.fingerprint import fingerprint
from shared.jobs import LoraRef, RenderSpec
from tests.orders import spec

SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
loras = st.builds(LoraRef, name=st.text(max_size=5), sha256=SHA, scale=st.floats(-2, 2))
changes: dict[str, st.SearchStrategy[Any]] = {
    "model_digest": SHA,
    "prompt": st.text(min_size=1),
    "negative_prompt": st.text(),
    "width": st.integers(1, 128).map(lambda k: 16 * k),
    "height": st.integers(1, 128).map(lambda k: 16 * k),
    "steps": st.integers(1, 100),
    "guidance_scale": st.floats(0, 30),
    "shift": st.floats(0.1, 20),
    "seed": st.integers(0, 2**32 - 1),
    "loras": st.lists(loras, max_size=3).map(tuple),
    "init_image_sha256": st.none() | SHA,
    "mask_image_sha256": st.none() | SHA,
    "strength": st.none() | st.floats(0.01, 1),
    "preset": st.sampled_from(["exact", "balanced", "draft"]),
    "skip_layer_guidance": st.floats(0, 10),
}
specs = st.fixed_dictionaries({}, optional=changes).map(lambda fields: spec(**fields))


def effect(spec: RenderSpec) -> dict[str, Any]:
    """What a renderer would read of the order, said independently of the fingerprint."""
    seen = spec.model_dump(exclude={"model"})
    if spec.guidance_scale <= 1:
        del seen["guidance_scale"], seen["negative_prompt"], seen["skip_layer_guidance"]
    if not spec.init_image_sha256:
        del seen["strength"], seen["mask_image_sha256"]
    seen["loras"] = [(one.sha256, one.scale) for one in spec.loras if one.scale != 0]
    return seen


@given(specs, specs)
def test_equal_exactly_when_a_renderer_would_see_the_same(a: RenderSpec, b: RenderSpec) -> None:
    assert (fingerprint(a) == fingerprint(b)) == (effect(a) == effect(b))


@given(specs, st.data())
def test_every_field_that_moves_pixels_counts(one: RenderSpec, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(changes)))
    other = one.model_copy(update={field: data.draw(changes[field])})
    assume(effect(one) != effect(other))

    assert fingerprint(one) != fingerprint(other)


@given(specs)
def test_a_stored_order_keeps_its_fingerprint(one: RenderSpec) -> None:
    assert fingerprint(RenderSpec.model_validate_json(one.model_dump_json())) == fingerprint(one)


def test_the_name_of_a_model_does_not_count_but_its_digest_does() -> None:
    assert fingerprint(spec(model="other")) == fingerprint(spec())
    assert fingerprint(spec(model_digest="0" * 64)) != fingerprint(spec())


def test_the_fingerprint_of_a_known_order_never_changes() -> None:
    known = RenderSpec(
        model="tiny", model_digest="d", prompt="a red fox", width=64, height=64, steps=4,
        guidance_scale=4.5, shift=3.0, seed=7,
    )  # fmt: skip

    # If this fails, every cache in the world is lost: raise VERSION and say so in the changelog.
    assert fingerprint(known) == "e3a38ef11e1a8525e6924584d8f4cf39310283e4afbff9352b484228925ab25d"


def test_the_fingerprint_of_a_known_order_from_a_picture_never_changes() -> None:
    known = spec(7, model_digest="d", init_image_sha256="a1" * 32, strength=0.6)

    assert fingerprint(known) == "0a1027cdb177172f7357e88ef857aad8191aaab5930087432746bea55b5daa73"
    masked = known.model_copy(update={"mask_image_sha256": "b2" * 32})
    assert fingerprint(masked) == "cbb685b66f9177cc0f0b8fc3836de26da235e073f5786bac2f181a7f97886ce3"
