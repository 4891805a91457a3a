"""`vllm run-batch` on a file of chat requests with the images in them."""

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
    """The command, which starts once; between measurements all its processes are stopped.

    Its answers come all at the end; when they were ready is in the metrics that it shows meanwhile.
    Reports are complete when it is closed.
    """

    def __init__(
        self, checkpoint: Path, images: Sequence[Path], counted: int, folder: Path
    ) -> None:
        """Args:
        counted: Images of a measurement.
        """
        asked, port = folder / "requests.jsonl", free_port()
        self._answers, self._log = folder / "answers.jsonl", folder / "run_batch.log"
        self._metrics = f"http://127.0.0.1:{port}/metrics"
        asked.write_text("".join(map(_request, images)))
        command = [
            # What `vllm run-batch` runs; that command does not know itself in vLLM's CPU build.
            *(sys.executable, "-m", "vllm.entrypoints.openai.run_batch"),
            *("-i", str(asked), "-o", str(self._answers), "--model", str(checkpoint)),
            *("--served-model-name", MODEL, *_flags(ENGINE)),
            *("--enable-metrics", "--host", "127.0.0.1", "--port", str(port)),
        ]
        with self._log.open("w") as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        self._family, self._counted = Family(self._process), counted
        self._reports: list[Report] = []
        # One client for all looks: each new one loads certificates, a third of a core at this pace.
        self._client = httpx.Client()
        self._done = 0
        while self._done < SEQUENCES:
            self._look()
        self._family.stop()

    def measure(self) -> Report:
        """Captions so many images more."""
        report = Report()
        self._family.go_on()
        while len(report.done_at) < self._counted:
            report.done_at.extend([time.monotonic()] * self._look())
        self._family.stop()
        del report.done_at[self._counted :]
        self._reports.append(report)
        return report

    def close(self) -> None:
        """Lets it come to its end."""
        self._client.close()
        self._family.go_on()
        assert self._process.wait() == 0, self._log.read_text()[-3000:]
        answers = [json.loads(line) for line in self._answers.read_text().splitlines()]
        usages = [answer["response"]["body"]["usage"] for answer in answers]
        for report in self._reports:  # which of them were in it nobody tells; they are all alike
            report.prompt_tokens.extend(u["prompt_tokens"] for u in usages[: self._counted])
            report.output_tokens.extend(u["completion_tokens"] for u in usages[: self._counted])

    def _look(self) -> int:
        """A moment later, how many more are done."""
        time.sleep(POLL_S)
        assert self._process.poll() is None, self._log.read_text()[-3000:]
        before, self._done = self._done, max(self._done, _finished(self._client, self._metrics))
        return self._done - before


def _finished(client: httpx.Client, metrics: str) -> int:
    """Requests that vLLM has answered; none while it does not tell."""
    try:
        lines = client.get(metrics).text.splitlines()
    except httpx.TransportError:
        return 0
    counts = [line for line in lines if line.startswith("vllm:request_success_total{")]
    return sum(int(float(line.rpartition(" ")[2])) for line in counts)


def _request(image: Path) -> str:
    url = "data:image/jpeg;base64," + base64.b64encode(image.read_bytes()).decode()
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": prompts.CAPTION},
    ]
    body = {"model": MODEL, "messages": [{"role": "user", "content": parts}]}
    body |= {"temperature": 0, "max_tokens": TOKENS}
    line = {"custom_id": image.name, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line) + "\n"


def _flags(arguments: dict[str, Any]) -> list[str]:
    found = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            found += [f"--{flag}", json.dumps(value) if isinstance(value, dict) else str(value)]
    return found
