"""Turns the notice of a spot machine into a drain of its node in Ray: training saves a checkpoint.

To watch AWS's notice, which comes two minutes before the machine ends:
    python cluster/spot_notice.py GCS
To drain at once and return after 60 seconds, as a preStop hook of Kubernetes:
    python cluster/spot_notice.py GCS --now 60

GCS is the address of the head, such as 10.0.0.10:6379. On a machine that is no spot machine, the
watch never ends. A second watch on the same machine ends at once.
"""

import fcntl
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

POLL_S = 5.0
TOKEN_TTL_S = 21_600
LIMIT_S = 5.0
METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
LOCK = Path(tempfile.gettempdir()) / f"s4v-spot-notice-{os.getuid()}.lock"


def fetch_notice() -> datetime | None:
    """When the machine will be taken away; None as long as there is no notice, or no answer."""
    token = _request("PUT", "api/token", "X-aws-ec2-metadata-token-ttl-seconds", str(TOKEN_TTL_S))
    if token is None:
        return None
    header = "X-aws-ec2-metadata-token"
    notice = _request("GET", "meta-data/spot/instance-action", header, token)
    return datetime.fromisoformat(json.loads(notice)["time"]) if notice else None


def _request(method: str, path: str, header: str, value: str) -> str | None:
    url = f"{METADATA}/latest/{path}"
    request = urllib.request.Request(url, method=method, headers={header: value})
    try:
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):  # 404 means that there is no notice
        return None


def drain_this_node(gcs: str, deadline: datetime) -> None:
    """Tell Ray that this machine's node is about to be taken away."""
    from ray._private.services import get_node_ip_address
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2, gcs_pb2

    client = GcsClient(address=gcs)
    own = {get_node_ip_address(), get_node_ip_address(gcs)}
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    for node_id, node in client.get_all_node_info(timeout=30).items():
        if node.node_manager_address in own and node.state == gcs_pb2.GcsNodeInfo.ALIVE:
            accepted, problem = client.drain_node(
                node_id.hex(), reason, "spot notice", int(deadline.timestamp() * 1000)
            )
            print(f"drained {node_id.hex()}" if accepted else f"not drained: {problem}", flush=True)


def watch(gcs: str) -> None:
    lock = LOCK.open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    while (deadline := fetch_notice()) is None:
        time.sleep(POLL_S)
    drain_this_node(gcs, deadline)


def main(arguments: list[str]) -> int:
    if len(arguments) == 1:
        watch(arguments[0])
    elif len(arguments) == 3 and arguments[1] == "--now":
        seconds = float(arguments[2])
        drain_this_node(arguments[0], datetime.fromtimestamp(time.time() + seconds, UTC))
        time.sleep(seconds)
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
