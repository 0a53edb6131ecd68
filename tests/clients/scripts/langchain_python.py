"""langchain-community's image tool, unmodified: it reads only `url`."""

from __future__ import annotations

import warnings
from importlib.metadata import version as installed
from typing import Any

from case import case, main, opened, size

warnings.simplefilter("ignore")


@case
def version() -> str:
    return installed("langchain-community")


@case
def draw() -> Any:
    from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper

    url = DallEAPIWrapper(model="dall-e-2", size="256x256").run("a red fox")
    picture, kind = opened(url)
    return {"size": size(picture), "type": kind}


if __name__ == "__main__":
    main()
