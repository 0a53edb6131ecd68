"""Where a result store puts its objects, seen without it: a folder, or a bucket on a server."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from shared.results.local import LocalResults
from shared.results.port import ResultStore
from shared.results.s3 import S3Results
from tests.servers.rgw import Rgw


class Ground(Protocol):
    def store(self, prefix: str = "") -> ResultStore:
        """A store on this ground; stores of different prefixes share it."""

    def place(self, name: str, data: bytes) -> None: ...

    def fetch(self, name: str) -> bytes: ...

    def remove(self, name: str) -> None: ...

    def names(self) -> set[str]: ...


class Folder:
    def __init__(self, folder: Path) -> None:
        self.path = folder

    def store(self, prefix: str = "") -> ResultStore:
        return LocalResults(self.path / prefix)

    def place(self, name: str, data: bytes) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    def fetch(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def remove(self, name: str) -> None:
        (self.path / name).unlink()

    def names(self) -> set[str]:
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)) for path in files}


class Bucket:
    """A new bucket; its stores speak to `endpoint`, the test itself always plain http."""

    def __init__(self, server: Rgw, endpoint: str, name: str) -> None:
        self.name = name
        self.arguments: Mapping[str, str] = {
            "endpoint": endpoint,
            "access_key": server.access_key,
            "secret_key": server.secret_key,
        }
        self._bucket = server.s3.Bucket(name)
        self._bucket.create()

    def store(self, prefix: str = "", **changed: str) -> ResultStore:
        return S3Results(self.name, prefix=prefix, **{**self.arguments, **changed})

    def place(self, name: str, data: bytes) -> None:
        self._bucket.Object(name).put(Body=data)

    def fetch(self, name: str) -> bytes:
        return self._bucket.Object(name).get()["Body"].read()

    def metadata(self, name: str) -> dict[str, str]:
        return self._bucket.Object(name).metadata

    def remove(self, name: str) -> None:
        self._bucket.Object(name).delete()

    def names(self) -> set[str]:
        return {each.key for each in self._bucket.objects.all()}
