"""A real object store for tests: Ceph's radosgw, installed or run from unpacked Debian packages.

One monitor, one OSD that keeps objects in memory and one radosgw run on loopback, with their own
folder. Where Ceph is not installed, its packages are downloaded once, into the user's cache.
"""

import contextlib
import os
import platform
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-common")
PROGRAMS = (
    *("radosgw", "radosgw-admin", "ceph-mon", "ceph-osd"),
    *("ceph-authtool", "monmaptool", "osdmaptool"),
)
DOWNLOAD_LIMIT_S = 480
START_LIMIT_S = 90

CAPS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "osd": "allow *"},
}

# cephx stays on (it is the default): without it radosgw hangs at its start.
SETTINGS = """[global]
fsid = {fsid}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
keyring = {folder}/keyring
run dir = {folder}
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
log file = {folder}/$name.log
mon cluster log file = {folder}/cluster.log
admin socket =
plugin dir = {libraries}/ceph
erasure code dir = {libraries}/ceph/erasure-code
osd class dir = {libraries}/rados-classes
osd objectstore = memstore
memstore device bytes = 4294967296
# One OSD holds the only copy of everything, in few placement groups; no manager, no scaling.
mon allow pool size one = true
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
# With the default, each pool that radosgw creates at its first start waits two seconds.
paxos propose interval = 0.05
rgw frontends = beast endpoint={endpoint}
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Address of a radosgw, and the keys of its only user."""

    address: str
    access_key: str
    secret_key: str


@contextmanager
def radosgw(folder: Path) -> Iterator[Gateway]:
    """Run a radosgw whose files are in `folder`, and stop all its processes afterwards.

    Skips the test if the packages cannot be downloaded.
    """
    cluster = _Cluster(_find_ceph(), folder)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


class _Cluster:
    """The processes of one Ceph cluster, and its command-line tools."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self._tree, self._folder = tree, folder
        self._libraries = next(tree.glob("usr/lib/*/rados-classes")).parent
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._environment = os.environ | {
            "CEPH_CONF": str(folder / "ceph.conf"),
            "LD_LIBRARY_PATH": ":".join(map(str, self._list_library_folders())),
        }

    def start(self) -> Gateway:
        self._configure()
        self._start_monitor()
        self._run_tool("ceph-osd", "-i", "0", "--mkfs")
        self._start_daemon("ceph-osd", "-i", "0")
        user = Gateway(f"http://{self._endpoint}", "tests", secrets.token_hex(16))
        # This command waits until the OSD is ready.
        self._run_tool(
            *("radosgw-admin", "-n", "client.admin", "user", "create", "--uid", "tests"),
            *("--display-name", "tests", "--access-key", user.access_key),
            *("--secret-key", user.secret_key),
        )
        self._start_daemon("radosgw", "-n", "client.admin")
        self._wait_until_ready()
        return user

    def stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.kill()  # on SIGTERM an OSD writes its memory to the disk first
            daemon.wait()

    def _list_library_folders(self) -> tuple[Path, ...]:
        triplet = self._libraries.name
        return self._libraries, self._libraries / "ceph", self._tree / "lib" / triplet

    def _configure(self) -> None:
        self._fsid = str(uuid.uuid4())
        self._monitor, self._endpoint = (f"127.0.0.1:{port}" for port in _free_ports(2))
        settings = SETTINGS.format(
            fsid=self._fsid,
            monitor=f"v2:{self._monitor}",
            folder=self._folder,
            libraries=self._libraries,
            endpoint=self._endpoint,
        )
        (self._folder / "ceph.conf").write_text(settings)
        for name in ("mon", "osd", "rgw"):
            (self._folder / name).mkdir(parents=True)

    def _start_monitor(self) -> None:
        keyring, monitors, osds = (self._folder / n for n in ("keyring", "monmap", "osdmap"))
        self._run_tool("ceph-authtool", "--create-keyring", str(keyring))
        for name, caps in CAPS.items():
            flags = [word for about, cap in caps.items() for word in ("--cap", about, cap)]
            self._run_tool("ceph-authtool", str(keyring), "--gen-key", "-n", name, *flags)
        where = ("--addv", "a", f"[v2:{self._monitor}]")
        self._run_tool("monmaptool", "--create", "--fsid", self._fsid, *where, str(monitors))
        # The first OSD map already contains osd.0, so that no command has to add it.
        self._run_tool("osdmaptool", "--createsimple", "1", str(osds))
        maps = ("--monmap", str(monitors), "--osdmap", str(osds))
        self._run_tool("ceph-mon", "-i", "a", "--mkfs", *maps, "--keyring", str(keyring))
        self._start_daemon("ceph-mon", "-i", "a")

    def _run_tool(self, name: str, *flags: str) -> None:
        done = subprocess.run(
            [self._find_program(name), *flags],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=START_LIMIT_S,
        )
        assert done.returncode == 0, (name, done.stderr[-2000:])

    def _start_daemon(self, name: str, *flags: str) -> None:
        with (self._folder / f"{name}.out").open("wb") as sink:
            daemon = subprocess.Popen(
                [self._find_program(name), *flags, "--foreground"],
                env=self._environment,
                stdout=sink,
                stderr=sink,
                start_new_session=True,  # a Ctrl-C meant for the tests must not reach it first
            )
        self._daemons.append(daemon)

    def _find_program(self, name: str) -> str:
        return str(self._tree / "usr" / "bin" / name)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not _is_answering(self._endpoint):
            for daemon in self._daemons:
                assert daemon.poll() is None, f"{daemon.args} ended; its log is in {self._folder}"
            assert time.monotonic() < deadline, f"no answer; logs are in {self._folder}"
            time.sleep(0.1)


def _is_answering(endpoint: str) -> bool:
    client = HTTPConnection(endpoint, timeout=5)  # unlike urllib, it uses no proxy
    try:
        client.request("GET", "/")
        return client.getresponse().status == 200
    except OSError:
        return False
    finally:
        client.close()


def _find_ceph() -> Path:
    """Return the folder above `usr/bin` with Ceph's programs."""
    installed = Path("/")
    if all((installed / "usr" / "bin" / name).exists() for name in PROGRAMS):
        return installed
    return _unpack_packages()


def _unpack_packages() -> Path:
    """Return the folder with the unpacked packages; the first call downloads them."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        pytest.skip("radosgw comes out of Debian's packages; there is no apt-get here")
    system = platform.freedesktop_os_release()
    name = f"ceph-{system['ID']}-{system.get('VERSION_ID', '')}-{platform.machine()}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "s4v-tests"
    tree = cache / name
    if tree.exists():
        return tree
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        made = Path(folder) / "tree"
        for package in _download_packages(Path(folder)):
            subprocess.run(["dpkg-deb", "--extract", package, made], check=True)
        with contextlib.suppress(OSError):  # another test run was faster
            made.rename(tree)
    return tree


def _download_packages(folder: Path) -> list[Path]:
    """Download the packages and those of their dependencies that are not installed here."""
    (folder / "partial").mkdir()
    flags = {
        "Dir::Cache::archives": folder,
        "Debug::NoLocking": 1,  # nothing is installed, so no lock and no root are needed
        "APT::Sandbox::User": "",  # apt's own user may not write here
    }
    options = [f"-o{name}={value}" for name, value in flags.items()]
    command = ["apt-get", "install", "--download-only", "--yes", "--no-install-recommends"]
    try:
        done = subprocess.run(
            [*command, *options, *PACKAGES],
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"Ceph's packages did not arrive within {DOWNLOAD_LIMIT_S} s")
    if done.returncode:
        complaint = (done.stderr.strip().splitlines() or ["no reason"])[0]
        pytest.skip(f"Ceph's packages cannot be had (is `apt-get update` due?): {complaint}")
    return sorted(folder.glob("*.deb"))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        open_ones = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [one.getsockname()[1] for one in open_ones]
