"""Results in a bucket of any S3-compatible server.

No request here is a lock: conditional writes are unequal between servers, so who may publish is
decided in the job store and every claim writes under its own token.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from shared.errors import ResultGone, ResultsUnavailable, SettingsError
from shared.jobs import StoredResult
from shared.logs import redact
from shared.results import names
from shared.results.port import Kept

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import ObjectTypeDef

_GONE = frozenset({"NoSuchKey", "InvalidRange"})  # a shorter object is not our picture either
_REFUSED = frozenset(
    {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "403"}
)


class S3Results:
    """Thread-safe, since a boto3 client is. `endpoint` None is AWS itself.

    Without keys boto3 looks for its own (environment, profile, role) when this is constructed; a
    private certificate authority is named by boto3's own AWS_CA_BUNDLE. Raises SettingsError.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str | None = None,
        region: str = "us-east-1",
        access_key: str | None = None,
        secret_key: str | None = None,
        path_style: bool = True,
        prefix: str = "",
    ) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._place = f"bucket {bucket!r} at {redact(endpoint or 'AWS')}"
        server = f" --endpoint-url {redact(endpoint)}" if endpoint else ""
        self._creation = f"with `aws s3 mb s3://{bucket}{server}`"
        try:
            self._s3: S3Client = boto3.Session().client(
                "s3",
                endpoint_url=endpoint,
                region_name=region,
                aws_access_key_id=access_key,
                aws_secret_access_key=secret_key,
                config=_config(path_style),
            )
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"The FARM_S3_* settings: {redact(str(error))}") from error

    def put(self, result: StoredResult, png: bytes, details: dict[str, Any]) -> None:
        picture = self._prefix + names.picture(result.fingerprint, result.token)
        record = self._prefix + names.record(result.fingerprint, result.token)
        with self._explained():
            self._s3.put_object(
                Bucket=self._bucket,
                Key=picture,
                Body=png,
                ContentType=result.content_type,
                Metadata={"sha256": result.sha256},
            )
            self._s3.put_object(
                Bucket=self._bucket,
                Key=record,
                Body=names.encode(result, details),
                ContentType="application/json",
            )

    def find(self, fingerprint: str) -> StoredResult | None:
        """One request where there is nothing, two where there is a picture."""
        with self._explained():
            sizes = self._listed(names.folder(fingerprint))
            for token in names.recorded_tokens(sizes):
                record = self._fetched(self._prefix + names.record(fingerprint, token))
                result = names.decode(record or b"", fingerprint, token)
                whole = result and sizes.get(f"{token}.png") == result.size_bytes
                if result and result.exact and whole:
                    return result
        return None

    def read(self, result: StoredResult, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        pieces = self._pieces(result, start, end)
        next(pieces)  # sends the request: ResultGone comes from this call, not the first piece
        return pieces

    def delete(self, result: StoredResult | Kept) -> None:
        with self._explained():
            for name in (names.record, names.picture):
                key = self._prefix + name(result.fingerprint, result.token)
                self._s3.delete_object(Bucket=self._bucket, Key=key)

    def walk(self) -> Iterator[Kept]:
        start = len(self._prefix)
        with self._explained():
            yield from names.gather(
                (each["Key"][start:], each["Size"], each["LastModified"].timestamp())
                for each in self._pages(self._prefix + "renders/")
            )

    def check(self) -> None:
        """Put, list, get and delete a small object: each right that a farm needs."""
        name = f"check/{secrets.token_hex(8)}"
        key = self._prefix + name
        with self._explained():
            self._s3.put_object(Bucket=self._bucket, Key=key, Body=b"renderfarm")
            self._listed(name)
            with closing(self._s3.get_object(Bucket=self._bucket, Key=key)["Body"]) as body:
                body.read()
            self._s3.delete_object(Bucket=self._bucket, Key=key)

    def put_object(self, name: str, data: bytes, content_type: str) -> None:
        with self._explained():
            self._s3.put_object(
                Bucket=self._bucket, Key=self._prefix + name, Body=data, ContentType=content_type
            )

    def get_object(self, name: str) -> bytes | None:
        with self._explained():
            return self._fetched(self._prefix + name)

    def list_objects(self, folder: str) -> Iterator[str]:
        start = len(self._prefix)
        with self._explained():
            yield from (each["Key"][start:] for each in self._pages(self._prefix + folder))

    def delete_object(self, name: str) -> None:
        with self._explained():
            self._s3.delete_object(Bucket=self._bucket, Key=self._prefix + name)

    def _listed(self, start: str) -> dict[str, int]:
        """Sizes of the objects whose name starts so, under the rest of their name."""
        prefix = self._prefix + start
        return {each["Key"].removeprefix(prefix): each["Size"] for each in self._pages(prefix)}

    def _pages(self, prefix: str) -> Iterator[ObjectTypeDef]:
        pages = self._s3.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=prefix
        )
        return (each for page in pages for each in page.get("Contents", ()))

    def _fetched(self, key: str) -> bytes | None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if _code(error) == "NoSuchKey":
                return None
            raise
        with closing(answer["Body"]) as body:
            return body.read()

    def _pieces(self, result: StoredResult, start: int, end: int | None) -> Iterator[bytes]:
        key = self._prefix + names.picture(result.fingerprint, result.token)
        end = min(result.size_bytes, result.size_bytes if end is None else end)
        span = f"bytes={start}-{end - 1}" if start < end else "bytes=0-0"
        with self._explained():
            try:
                answer = self._s3.get_object(Bucket=self._bucket, Key=key, Range=span)
            except ClientError as error:
                if _code(error) in _GONE:
                    raise ResultGone from None
                raise
            with closing(answer["Body"]) as body:
                if "ContentRange" not in answer:  # some page with status 200
                    raise ResultsUnavailable(f"The {self._place} does not answer like S3")
                if answer["ContentRange"].rpartition("/")[2] != str(result.size_bytes):
                    raise ResultGone("The stored picture is not the one that its record describes.")
                yield b""
                if start < end:
                    yield from body.iter_chunks(names.PIECE_BYTES)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise ResultsUnavailable(self._words(_code(error))) from error
        except BotoCoreError as error:
            raise ResultsUnavailable(f"The {self._place}: {redact(str(error))}") from error
        except RecursionError as error:  # boto3 takes a 302 for another region, again and again
            raise ResultsUnavailable(f"The {self._place} redirects without end") from error

    def _words(self, code: str) -> str:
        if code == "NoSuchBucket":
            return f"There is no {self._place}: create it, for instance {self._creation}"
        if code in _REFUSED:
            return f"The {self._place} refuses these keys ({code})"
        return f"The {self._place} answers {code}"


def _config(path_style: bool) -> Config:
    # Checksum trailers, boto3's default, are refused over TLS by older servers; each request's body
    # is signed, so a damaged upload is refused all the same.
    return Config(
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"addressing_style": "path" if path_style else "virtual"},
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "total_max_attempts": 3},
        max_pool_connections=50,
    )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", "an error"))
