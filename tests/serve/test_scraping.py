"""The metrics of several nodes as one text."""

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.front import scraping
from serve.front.scraping import merge_metrics
from tests.serve.stub_service import Stub

NODE = """# HELP ray_s4v_http_requests_total Answered requests
# TYPE ray_s4v_http_requests_total counter
ray_s4v_http_requests_total{{NodeAddress="{node}",route="/v1/caption"}} 3.0
# HELP ray_s4v_http_seconds Seconds
# TYPE ray_s4v_http_seconds histogram
ray_s4v_http_seconds_bucket{{NodeAddress="{node}",le="+Inf"}} 2.0
ray_s4v_http_seconds_count{{NodeAddress="{node}"}} 2.0
ray_s4v_http_seconds_sum{{NodeAddress="{node}"}} 0.5
# HELP ray_vllm_num_requests_running Running
# TYPE ray_vllm_num_requests_running gauge
ray_vllm_num_requests_running{{NodeAddress="{node}"}} 1.0
# HELP ray_node_mem_used Not ours
# TYPE ray_node_mem_used gauge
ray_node_mem_used{{NodeAddress="{node}"}} 1.0
"""


def test_lines_of_one_metric_stand_together_and_are_described_once() -> None:
    merged = merge_metrics([NODE.format(node="a"), NODE.format(node="b"), "", "no metrics"])
    families = {family.name: family for family in text_string_to_metric_families(merged)}
    assert families.keys() == {
        "ray_s4v_http_requests",
        "ray_s4v_http_seconds",
        "ray_vllm_num_requests_running",
    }
    nodes = [sample.labels["NodeAddress"] for sample in families["ray_s4v_http_requests"].samples]
    assert nodes == ["a", "b"]
    assert len(families["ray_s4v_http_seconds"].samples) == 6
    assert families["ray_s4v_http_seconds"].type == "histogram"
    assert merged.count("# TYPE ray_s4v_http_seconds ") == 1


class Agent(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = NODE.format(node="c").encode()
        self.send_response(200 if self.path == "/metrics" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_ingress_shows_them_to_a_key_and_leaves_out_a_dead_node(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = ThreadingHTTPServer(("127.0.0.1", 0), Agent)
    threading.Thread(target=agent.serve_forever, daemon=True).start()
    alive = f"http://127.0.0.1:{agent.server_port}/metrics"
    monkeypatch.setattr(scraping, "_list_addresses", lambda: [alive, "http://127.0.0.1:9/metrics"])

    async def work() -> tuple[httpx.Response, httpx.Response]:
        service = Stub(tmp_path)
        async with service.client() as client, service.client(None) as nobody:
            return await client.get("/metrics"), await nobody.get("/metrics")

    try:
        found, refused = asyncio.run(work())
    finally:
        agent.shutdown()
        agent.server_close()
    assert refused.status_code == 401
    assert found.status_code == 200
    assert found.headers["content-type"].startswith("text/plain")
    assert 'ray_s4v_http_requests_total{NodeAddress="c"' in found.text
