"""Simulated hosts on one machine, and a Ray cluster on them. Each host has its own address,
processes and folders, and can be cut off from the others.

A host is a network namespace on a bridge with a PID namespace in it. Its first process reads a
pipe from the tests: when they end in any way, it ends, and the kernel kills all the others.
"""

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

TOOLS = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux", "nsenter": "util-linux"}
FIRST_PROCESS = """
hostname "$0"
mkdir -p /tmp/ray "$1/home" "$1/ray"
mount --bind "$1/ray" /tmp/ray
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/hosts" /etc/hosts
mount --bind "$1/resolv.conf" /etc/resolv.conf
echo up
read -r _
"""
"""Shell script of a host's first process, which also reaps orphans. The empty resolv.conf makes
lookups of unknown names fail at once: Ray looks up its own name and waits for the answer."""

RAY_PORT = 6379
WATCH = """
import sys, time, ray
ray.init(log_to_driver=False)
while True:
    alive = [node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]]
    print(*alive, file=open(sys.argv[1], "a"))
    time.sleep(0.5)
"""
PROBES = {
    "RAY_grpc_client_keepalive_time_ms": "10000",
    "RAY_grpc_client_keepalive_timeout_ms": "10000",
    "RAY_health_check_period_ms": "1000",
}
"""Without the first two settings Ray probes its connections every five minutes: the work of a host
that silently disappeared is retried after seven, and until then its CPUs count as used. Without the
third, Ray notices a dead raylet only after five refused connections, three seconds apart."""
STORE_BYTES = 512 << 20
UP_LIMIT_S = 900.0
"""Limit for a busy machine; an idle one needs ten seconds."""


def find_obstacle() -> str | None:
    """Return why hosts cannot be created here, or None if they can."""
    if os.geteuid():
        return "needs root: network namespaces"
    for tool, package in TOOLS.items():
        if shutil.which(tool) is None:
            return f"needs {tool}: install {package}"
    name = f"s4v{secrets.token_hex(3)}"
    if (tried := _run_command("ip", "netns", "add", name, check=False)).returncode:
        return f"needs network namespaces: {tried.stderr.strip()}"
    _run_command("ip", "netns", "del", name)
    return None


def wait_until(condition: Callable[[], object], what: str, limit_s: float = UP_LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}"
        time.sleep(0.1)


class Host:
    """A simulated host.

    Attributes:
        name: Name of its network namespace (`ip netns`).
        address: Its IP address.
        folder: Its own folder for temporary files and logs, removed when it is closed. The rest of
            the file system is shared by all hosts.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.folder = Path(tempfile.mkdtemp(prefix="s4v"))  # short: sockets' paths have a limit
        self._first = self._boot()
        self._space = os.readlink(f"/proc/{self._first.pid}/ns/pid")

    def start(
        self, *command: str | Path, log: Path | None = None, **variables: str
    ) -> subprocess.Popen[str]:
        """Start a process on this host, in its own session.

        Args:
            log: File for its output; without it, the process has pipes.
        """
        with log.open("a") if log else contextlib.nullcontext(subprocess.PIPE) as sink:
            return subprocess.Popen(
                ["nsenter", *self._build_nsenter_flags(), "--", *map(str, command)],
                cwd=ROOT,
                env=os.environ | variables,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT if log else sink,
                text=True,
                start_new_session=True,
            )

    def run(self, *command: str | Path, limit_s: float = 60, **variables: str) -> str:
        """Run a command that must succeed; return its output."""
        process = self.start(*command, **variables)
        out, err = process.communicate(timeout=limit_s)
        assert process.returncode == 0, f"{self.name}: {command}: {out}{err}"
        return out

    def processes(self, named: str = "") -> list[psutil.Process]:
        """List the processes of this host whose command line contains `named`."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                theirs = os.readlink(f"/proc/{process.pid}/ns/pid")
                if theirs == self._space and named in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def listen_ssh(self, public_key: str) -> None:
        """Start sshd, which accepts the key for this machine's own user."""
        (self.folder / "home" / ".ssh").mkdir(mode=0o700, exist_ok=True)
        (self.folder / "home" / ".bashrc").touch()
        (self.folder / "home" / ".ssh" / "authorized_keys").write_text(public_key)
        key = self.folder / "host_key"
        if not key.exists():
            _run_command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
        settings = {
            "ListenAddress": self.address,
            "HostKey": key,
            "PidFile": "none",
            "UsePAM": "no",
            "PermitRootLogin": "prohibit-password",
            "StrictModes": "no",
            "AuthorizedKeysFile": self.folder / "home" / ".ssh" / "authorized_keys",
        }
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd requires it
        options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        command = ("/usr/sbin/sshd", "-D", "-f", "/dev/null", *options)
        self.start(*command, log=self.folder / "sshd.log")

    def kill_all(self) -> None:
        """Kill all processes of the host with -9, except its first process."""
        alive = [process for process in self.processes() if process != self._first]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(alive, 30)

    def unplug(self) -> None:
        """Take its network interface down."""
        _run_command("ip", "-n", self.name, "link", "set", "eth0", "down")

    def plug_in(self, gateway: str) -> None:
        _run_command("ip", "-n", self.name, "link", "set", "eth0", "up")
        _run_command("ip", "-n", self.name, "route", "add", "default", "via", gateway)

    def cut_off(self, *peers: str) -> None:
        """Silently drop all packets from and to these addresses."""
        addresses = ", ".join(peers)
        rules = f"""table ip cut {{
            chain out {{ type filter hook output priority 0; ip daddr {{ {addresses} }} drop; }}
            chain in {{ type filter hook input priority 0; ip saddr {{ {addresses} }} drop; }}
        }}"""
        _run_command("ip", "netns", "exec", self.name, "nft", rules)

    def reconnect(self) -> None:
        _run_command("ip", "netns", "exec", self.name, "nft", "delete", "table", "ip", "cut")

    def close(self) -> None:
        gone = self.processes()
        self._namespace.communicate(timeout=30)
        psutil.wait_procs(gone, 30)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _boot(self) -> psutil.Process:
        (self.folder / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (self.folder / "resolv.conf").touch()
        # Users who log in get a home folder of this host; the machine's own has the interpreter.
        users = Path("/etc/passwd").read_text()
        home = f"{pwd.getpwuid(0).pw_dir}:"
        (self.folder / "passwd").write_text(users.replace(home, f"{self.folder / 'home'}:", 1))
        self._namespace = subprocess.Popen(
            [
                *("ip", "netns", "exec", self.name),
                *("unshare", "--pid", "--mount", "--uts", "--fork", "--mount-proc"),
                *("bash", "-c", FIRST_PROCESS, self.name, str(self.folder)),
            ],
            stdin=subprocess.PIPE,  # closes when the process that created the host ends
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._namespace.stdout
        assert self._namespace.stdout.readline(), f"{self.name} did not come up"
        return psutil.Process(self._namespace.pid).children()[0]

    def _build_nsenter_flags(self) -> list[str]:
        return [f"--target={self._first.pid}", "--net", "--pid", "--mount", "--uts"]


class Network:
    """A bridge with hosts on it, on a free private network of this machine.

    Attributes:
        gateway: This machine's own address on it; servers there can be reached by all hosts.
        hosts: The hosts that were added.
    """

    def __init__(self) -> None:
        self._suffix = secrets.token_hex(3)  # several test runs may share a machine
        self._bridge = f"s4v{self._suffix}"
        self._prefix = _free_prefix()
        self.gateway = f"{self._prefix}.1"
        self.hosts: list[Host] = []
        self._names: list[str] = []
        _run_command("ip", "link", "add", self._bridge, "type", "bridge")
        _run_command("ip", "address", "add", f"{self.gateway}/24", "dev", self._bridge)
        _run_command("ip", "link", "set", self._bridge, "up")

    def add_host(self) -> Host:
        number = len(self.hosts) + 1
        name, cable = f"s4v-{self._suffix}-{number}", f"v{self._suffix}-{number}"
        address = f"{self._prefix}.{number + 1}"
        self._names.append(name)
        _run_command("ip", "netns", "add", name)
        self.hosts.append(Host(name, address))
        plug = ("type", "veth", "peer", "name", "eth0", "netns", name)
        _run_command("ip", "link", "add", cable, *plug)
        _run_command("ip", "link", "set", cable, "master", self._bridge, "up")
        for settings in (
            ("address", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            # Ray reads its own address from the route to the internet; nothing is sent there.
            ("route", "add", "default", "via", self.gateway),
        ):
            _run_command("ip", "-n", name, *settings)
        return self.hosts[-1]

    def close(self) -> None:
        with contextlib.ExitStack() as last:
            last.callback(_run_command, "ip", "link", "del", self._bridge, check=False)
            for name in self._names:
                last.callback(_run_command, "ip", "netns", "del", name, check=False)
            for host in self.hosts:
                last.callback(host.close)


class RayCluster:
    """A Ray head and workers, each on its own host, with a token.

    Attributes:
        head: The host of the head.
        workers: The hosts of the workers.
        variables: Environment variables of clients.
    """

    def __init__(self, network: Network, workers: int, cpus: int, **variables: str) -> None:
        """Start Ray on all hosts.

        Args:
            cpus: CPUs of each worker; the head has none, so that all work is on hosts that may die.
        """
        self._cpus = cpus
        self.head, *self.workers = [network.add_host() for _ in range(1 + workers)]
        self.variables = variables | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "RAY_ADDRESS": f"{self.head.address}:{RAY_PORT}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        self._start(self.head, "--head", f"--port={RAY_PORT}", "--include-dashboard=false", cpus=0)
        wait_until(self._is_head_up, "the head is up")
        self._nodes_file = self.head.folder / "nodes.txt"
        self.head.start(
            sys.executable,
            "-c",
            WATCH,
            self._nodes_file,
            log=self.head.folder / "watch.log",
            **self.variables,
        )
        for worker in self.workers:
            self.start_worker(worker)

    def start_worker(self, host: Host) -> None:
        """Bring up Ray on a worker, the first time or again."""
        address = self.variables["RAY_ADDRESS"]
        started = self._start(host, f"--address={address}", cpus=self._cpus)

        def is_up() -> bool:
            nonlocal started
            if started.poll() is not None:  # Ray gives up by itself on a slow machine
                started = self._start(host, f"--address={address}", cpus=self._cpus)
            return host.address in self.nodes_alive()

        wait_until(is_up, f"Ray on {host.name}")

    def kill_raylet(self, host: Host) -> None:
        """Kill a host's raylet with -9; `ray start --block` then ends the rest of the node."""
        [raylet] = host.processes("/raylet/raylet ")
        raylet.kill()

    def engines(self) -> dict[int, Host]:
        """The host of each engine actor, by process id."""
        named = "EngineActor"
        return {it.pid: host for host in self.workers for it in host.processes(named)}

    def nodes_alive(self) -> list[str]:
        """Addresses of the nodes that the head considers alive."""
        lines = self._nodes_file.read_text().splitlines() if self._nodes_file.exists() else []
        return lines[-1].split() if lines else []

    def _start(self, host: Host, *flags: str, cpus: int) -> subprocess.Popen[str]:
        host.kill_all()  # processes that a dead raylet left behind
        return host.start(
            *(BIN / "ray", "start", "--block", *flags, f"--node-ip-address={host.address}"),
            *(f"--num-cpus={cpus}", f"--object-store-memory={STORE_BYTES}"),
            f"--temp-dir={host.folder / 'ray'}",
            log=host.folder / "ray.log",
            **self.variables_of(host),
        )

    def _is_head_up(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection((self.head.address, RAY_PORT), 1).close()
            return True
        return False

    def variables_of(self, host: Host) -> Mapping[str, str]:
        # `ray start` also writes its address to this folder, where other runs must not find it.
        return self.variables | {"RAY_TMPDIR": str(host.folder)}


def _free_prefix() -> str:
    while True:
        prefix = f"10.{secrets.randbelow(256)}.{secrets.randbelow(256)}"
        if not _run_command("ip", "route", "show", "root", f"{prefix}.0/24").stdout:
            return prefix


def _run_command(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done
