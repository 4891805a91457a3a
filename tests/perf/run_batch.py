"""`vllm run-batch` on a file of chat requests that contain the images."""

import base64
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from s4v_core import prompts
from tests.flow.scripts import ROOT
from tests.perf.servers import free_port
from tests.perf.stopping import Family
from tests.perf.vllm_pass import ENGINE, SEQUENCES, TOKENS, Report

POLL_S = 0.1
MODEL = "captioner"


class RunBatch:
    """The command, which starts once and whose processes are stopped between measurements.

    It writes all answers at the end, so the metrics that it serves meanwhile show when each was
    ready. Reports are complete when it is closed.
    """

    def __init__(
        self, checkpoint: Path, images: Sequence[Path], counted: int, folder: Path
    ) -> None:
        """Start the command and stop it after its first answers.

        Args:
            counted: Images per measurement.
        """
        asked, port = folder / "requests.jsonl", free_port()
        self._answers, self._log = folder / "answers.jsonl", folder / "run_batch.log"
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        asked.write_text("".join(map(_build_request, images)))
        command = [
            # The module behind `vllm run-batch`, which does not work in vLLM's CPU build.
            *(sys.executable, "-m", "vllm.entrypoints.openai.run_batch"),
            *("-i", str(asked), "-o", str(self._answers), "--model", str(checkpoint)),
            *("--served-model-name", MODEL, *_build_flags(ENGINE)),
            *("--enable-metrics", "--host", "127.0.0.1", "--port", str(port)),
        ]
        with self._log.open("w") as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        self._family, self._counted = Family(self._process), counted
        self._reports: list[Report] = []
        # One client for all requests: each new one loads certificates, which would take a third of
        # a core at this rate.
        self._client = httpx.Client()
        self._done = 0
        while self._done < SEQUENCES:
            self._count_new()
        self._family.stop()

    def measure(self) -> Report:
        """Caption the next images of a measurement."""
        report = Report()
        self._family.resume()
        while len(report.done_at) < self._counted:
            report.done_at.extend([time.monotonic()] * self._count_new())
        self._family.stop()
        del report.done_at[self._counted :]
        self._reports.append(report)
        return report

    def close(self) -> None:
        """Let the command run to its end, and fill the reports."""
        self._client.close()
        self._family.resume()
        assert self._process.wait() == 0, self._log.read_text()[-3000:]
        answers = [json.loads(line) for line in self._answers.read_text().splitlines()]
        usages = [answer["response"]["body"]["usage"] for answer in answers]
        for report in self._reports:  # answers cannot be matched to reports, but all are alike
            report.prompt_tokens.extend(u["prompt_tokens"] for u in usages[: self._counted])
            report.output_tokens.extend(u["completion_tokens"] for u in usages[: self._counted])

    def _count_new(self) -> int:
        """Wait a moment; return how many more requests are done."""
        time.sleep(POLL_S)
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        before, self._done = (
            self._done,
            max(self._done, _read_finished_count(self._client, self._metrics)),
        )
        return self._done - before


def _read_finished_count(client: httpx.Client, metrics: str) -> int:
    """Read the number of answered requests; 0 while vLLM serves no metrics yet."""
    try:
        lines = client.get(metrics).text.splitlines()
    except httpx.TransportError:
        return 0
    counts = [line for line in lines if line.startswith("vllm:request_success_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


def _build_request(image: Path) -> str:
    url = "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": prompts.CAPTION},
    ]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
    body |= {"temperature": 0, "max_tokens": TOKENS}
    line = {"custom_id": image.name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line) + "\n"


def _build_flags(arguments: dict[str, Any]) -> list[str]:
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found
