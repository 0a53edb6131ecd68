"""Makes the bucket that the settings name, unless it is there."""

import sys

import boto3
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import SecretStr

from shared.settings import Settings, load_settings

THERE = ("BucketAlreadyOwnedByYou", "BucketAlreadyExists")


def make(settings: Settings) -> None:
    """Raises ClientError, BotoCoreError."""
    s3 = boto3.client(
        "s3",
        endpoint_url=settings.s3_endpoint,
        region_name=settings.s3_region,
        aws_access_key_id=_shown(settings.s3_access_key),
        aws_secret_access_key=_shown(settings.s3_secret_key),
    )
    try:
        s3.create_bucket(Bucket=settings.s3_bucket or "")
    except ClientError as error:
        if error.response["Error"]["Code"] not in THERE:
            raise


def _shown(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


if __name__ == "__main__":
    try:
        make(load_settings())
    except (BotoCoreError, ClientError) as error:
        sys.exit(f"cannot make the bucket: {error}")
