"""A real S3 server for tests: Ceph's RADOS Gateway on one monitor and one OSD, all in memory.

Needs Debian's radosgw, ceph-mon, ceph-osd and ceph-common; ready in about 13 s. It listens on
loopback only, over http and, with a certificate made on the spot, over https.
"""

import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3

from deploy.ports import free_port
from deploy.tether import tethered

PROGRAMS = ("radosgw", "ceph-mon", "ceph-osd", "ceph", "monmaptool", "radosgw-admin", "openssl")
READY_S = 60.0
STOP_S = 5.0

CONF = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon}]
public network = 127.0.0.0/8
keyring = {folder}/keyring
log file = {folder}/$name.log
run dir = {folder}
admin socket =
pid file =
mon data avail crit = 1
mon data avail warn = 1
mon allow pool size one = true
mon max pg per osd = 1000
mon osd min up ratio = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
[mon.a]
mon data = {folder}/mon
[osd.0]
osd data = {folder}/osd
[client.rgw]
rgw data = {folder}/rgw
rgw frontends = beast endpoint=127.0.0.1:{http} ssl_endpoint=127.0.0.1:{https} \
ssl_certificate={folder}/cert.pem ssl_private_key={folder}/key.pem tcp_nodelay=1
"""
CAPS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "client.rgw": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}


class Rgw:
    """`with Rgw(folder) as server:` use `server.http` or `server.https` with the two keys."""

    access_key = "FARMTESTKEY"
    secret_key = "farm-test-secret"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.certificate = folder / "cert.pem"

    @cached_property
    def s3(self) -> Any:
        """A boto3 resource that speaks plain http; not for two threads."""
        session = boto3.Session(self.access_key, self.secret_key, region_name="us-east-1")
        return session.resource("s3", endpoint_url=self.http)

    def __enter__(self) -> "Rgw":
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the gateway before what it stands on; an OSD in memory has nothing to save."""
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(STOP_S)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._daemons.clear()

    def _start(self) -> None:
        http, https, mon = free_port(), free_port(), free_port()
        self.http, self.https = f"http://127.0.0.1:{http}", f"https://127.0.0.1:{https}"
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir()
        fsid = str(uuid.uuid4())
        conf = CONF.format(folder=self._folder, fsid=fsid, mon=mon, http=http, https=https)
        (self._folder / "ceph.conf").write_text(conf)
        self._make_certificate()
        self._make_keyring()
        self._start_monitor(fsid, mon)
        self._start_osd()
        self._start_gateway()

    def _make_certificate(self) -> None:
        key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        name = ("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "2")
        files = ("-keyout", "key.pem", "-out", "cert.pem")
        self._run("openssl", "req", "-x509", *key, *name, *files)

    def _make_keyring(self) -> None:
        for number, (name, caps) in enumerate(CAPS.items()):
            create = ("--create-keyring",) if number == 0 else ()
            granted = [word for part, cap in caps.items() for word in ("--cap", part, cap)]
            self._run("ceph-authtool", *create, "keyring", "--gen-key", "-n", name, *granted)

    def _start_monitor(self, fsid: str, port: int) -> None:
        address = f"[v2:127.0.0.1:{port}]"
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, "monmap")
        mon = ("ceph-mon", "-c", "ceph.conf", "-i", "a")
        self._run(*mon, "--mkfs", "--monmap", "monmap", "--keyring", "keyring")
        self._daemon(*mon, "-f")

    def _start_osd(self) -> None:
        osd_id = str(uuid.uuid4())
        self._ceph("osd", "new", osd_id, "0")  # waits for the monitor
        osd = ("ceph-osd", "-c", "ceph.conf", "-i", "0")
        self._run(*osd, "--mkfs", "--osd-uuid", osd_id)
        self._daemon(*osd, "-f")
        self._until(lambda: b"1 up" in self._ceph("osd", "stat"), "the OSD to be up")

    def _start_gateway(self) -> None:
        gateway = ("-c", "ceph.conf", "-n", "client.rgw")
        keys = (f"--access-key={self.access_key}", f"--secret-key={self.secret_key}")
        user = ("user", "create", "--uid=farm", "--display-name=farm")
        self._run("radosgw-admin", *gateway, *user, *keys)
        self._daemon("radosgw", *gateway, "-f")
        self._until(lambda: _answers(self.http), "the gateway to answer")

    def _ceph(self, *words: str) -> bytes:
        return self._run("ceph", "-c", "ceph.conf", "--connect-timeout", "30", *words)

    def _run(self, *command: str) -> bytes:
        done = subprocess.run(command, cwd=self._folder, capture_output=True, timeout=READY_S)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-2000:]}")
        return done.stdout

    def _daemon(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out").open("wb") as out:
            self._daemons.append(
                subprocess.Popen(
                    tethered([shutil.which(command[0]) or command[0], *command[1:]]),
                    cwd=self._folder,
                    stdout=out,
                    stderr=out,
                    env=os.environ | {"LC_ALL": "C"},
                )
            )

    def _until(self, happens: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + READY_S
        while not happens():
            if time.monotonic() > deadline or any(d.poll() is not None for d in self._daemons):
                raise RuntimeError(f"waited in vain for {what}; the logs are in {self._folder}")
            time.sleep(0.1)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
