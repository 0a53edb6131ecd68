"""Sample results: their pictures are any bytes, since a store looks at none of them."""

import hashlib

from shared.jobs import StoredResult

FINGERPRINT, OTHER = "a1" * 32, "b2" * 32
FIRST, SECOND = "01K0000000000000000000000A", "01K0000000000000000000000B"
PNG = bytes(range(256)) * 10


def sample(token: str = FIRST, png: bytes = PNG, fingerprint: str = FINGERPRINT) -> StoredResult:
    return StoredResult(
        fingerprint=fingerprint,
        token=token,
        size_bytes=len(png),
        sha256=hashlib.sha256(png).hexdigest(),
        width=16,
        height=16,
        timings_s={"denoise": 1.5},
        profile={"dtype": "bf16"},
        stored_at=1_760_000_000.0,
    )


def name(result: StoredResult, ending: str) -> str:
    return f"renders/{result.fingerprint}/{result.token}.{ending}"
