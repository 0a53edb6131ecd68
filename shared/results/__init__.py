"""The result store: pictures in a bucket or in a folder, behind one port."""

from __future__ import annotations

from pydantic import SecretStr

from shared.results.port import ResultStore
from shared.settings import Settings


def open_results(settings: Settings) -> ResultStore:
    """The store that the settings name. Raises SettingsError; touches no storage yet."""
    if settings.s3_bucket is None:
        from shared.results.local import LocalResults

        return LocalResults(settings.local_results_dir)
    from shared.results.s3 import S3Results  # boto3 costs a third of a second: only where used

    return S3Results(
        settings.s3_bucket,
        endpoint=settings.s3_endpoint,
        region=settings.s3_region,
        access_key=_plain(settings.s3_access_key),
        secret_key=_plain(settings.s3_secret_key),
        path_style=settings.s3_path_style,
        prefix=settings.s3_prefix,
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None
