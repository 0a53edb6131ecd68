"""A GGUF file's header, read within bounds: the library would count as far as a header says."""

from __future__ import annotations

from typing import Any

from gguf import GGUFReader

MOST_HEADER_BYTES = 2**18  # before the last field begins; SD3.5's have some hundreds


class BoundedReader(GGUFReader):
    """Raises ValueError for a header that reaches beyond the file, or is absurdly long."""

    def _get(self, offset: int, dtype: Any, count: int = 1, *order: Any, **named: Any) -> Any:
        found = super()._get(offset, dtype, count, *order, **named)
        if len(found) < count:
            raise ValueError("it says more than the file holds")
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        """Of one field, and of each entry of an array."""
        if orig_offs > MOST_HEADER_BYTES:
            raise ValueError("its header is too long")
        return super()._get_field_parts(orig_offs, raw_type)
