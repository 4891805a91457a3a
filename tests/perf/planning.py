"""Planning at size: time and memory of the plan of a million keys, a JSON of 1.5 GB and a table of
ten million URLs.

    python -m tests.perf.planning keys|json|urls FOLDER
"""

import json
import resource
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_tables
from s4v_core.inputs.unique_ids import UniqueIds, hash_ids
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.row_spool import RowSpool

KEYS, RECORDS, URLS = 1_000_000, 1_246_000, 10_000_000
PAGE = 1000


class _Listing(BaseHTTPRequestHandler):
    """The listing of a bucket with a million objects."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        start = int(query.get("continuation-token", ["0"])[0])
        end = min(start + PAGE, KEYS)
        entries = "".join(
            f"<Contents><Key>images/{n // 1000:05d}/{n:09d}.jpg</Key><Size>100000</Size>"
            f"<LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{n:032x}&quot;"
            "</ETag><StorageClass>STANDARD</StorageClass></Contents>"
            for n in range(start, end)
        )
        more = f"<NextContinuationToken>{end}</NextContinuationToken>" if end < KEYS else ""
        body = (
            '<?xml version="1.0"?><ListBucketResult><Name>big</Name><Prefix>images/</Prefix>'
            f"<IsTruncated>{str(end < KEYS).lower()}</IsTruncated>{more}{entries}"
            "</ListBucketResult>"
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _serve_listing() -> str:
    import os

    server = ThreadingHTTPServer(("127.0.0.1", 0), _Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{server.server_port}"
    os.environ |= {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
    return "s3://big/images"


def _write_json(folder: Path) -> str:
    """Records as long as those of the released file."""
    answer = "The image shows a scene in great detail. " * 26
    path = folder / "data.json"
    with path.open("w") as file:
        for n in range(RECORDS):
            turns = [
                {"from": "human", "value": "<image>\nDescribe it."},
                {"from": "gpt", "value": answer},
            ]
            record = {"id": f"{n}", "image": f"sam/{n:09d}.jpg", "conversations": turns}
            file.write(("[" if not n else ",\n") + json.dumps(record))
        file.write("]")
    return str(path)


def _write_urls(folder: Path) -> str:
    path = folder / "urls.parquet"
    schema = pa.schema([("url", pa.large_string()), ("caption", pa.large_string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, URLS, 100_000):
            urls = [
                f"https://cdn{n % 97}.example/images/{n:012d}.jpg"
                for n in np.arange(start, start + 100_000)
            ]
            writer.write_table(pa.table([urls, ["an alt text"] * len(urls)], schema=schema))
    return str(path)


def plan(uri: str, output: str) -> dict[str, Any]:
    """Plan an input in this process, with the steps of a caption job."""
    started = time.monotonic()
    shards = find_shards([uri])
    listed = time.monotonic()
    with RowSpool(INDEX_SCHEMA, len(shards)) as spool:
        accounts = []
        for number, shard in enumerate(shards):
            account = ShardAccount()
            for part, table in enumerate(index_tables(shard, account)):
                spool.add(number, part, table)
            accounts.append(account.describe(shard))
        indexed = time.monotonic()
        ids = UniqueIds(hash_ids(rows for _, rows in spool.read()))
        head = build_head(spool.input_rows, accounts, {}, "x", kind="captions", key="image_id")
        write_plan(output, head, (ids.rename(rows) for _, rows in spool.read()))
    return {
        "rows": head.rows,
        "list_s": round(listed - started, 1),
        "index_s": round(indexed - listed, 1),
        "write_s": round(time.monotonic() - indexed, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main(kind: str, folder: str) -> None:
    """Write the input if it is not there, plan it, and print the figures."""
    place = Path(folder)
    inputs = {
        "keys": _serve_listing,
        "json": lambda: str(place / "data.json"),
        "urls": lambda: str(place / "urls.parquet"),
    }
    if sys.argv[3:] == ["--write"]:
        {"json": _write_json, "urls": _write_urls}[kind](place)
        return
    figures = plan(inputs[kind](), f"{folder}/out-{kind}")
    sys.stdout.write(f"{kind} {json.dumps(figures)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:3])
