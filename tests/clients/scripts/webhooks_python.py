"""A receiver's check of one delivery (JSON on stdin), with standardwebhooks and with openai."""

from __future__ import annotations

import json
import sys
from importlib.metadata import version as installed
from typing import Any

import openai
from case import case, main
from standardwebhooks import Webhook

GIVEN = json.load(sys.stdin)


@case
def version() -> str:
    return installed("standardwebhooks")


@case
def verified() -> Any:
    return Webhook(GIVEN["secret"]).verify(GIVEN["body"], GIVEN["headers"])


@case
def forged() -> Any:
    return Webhook(GIVEN["secret"]).verify(GIVEN["body"] + " ", GIVEN["headers"])


@case
def openai_verified() -> Any:
    client = openai.OpenAI(api_key="-", webhook_secret=GIVEN["secret"])
    client.webhooks.verify_signature(GIVEN["body"], GIVEN["headers"])
    return True


if __name__ == "__main__":
    main()
