"""The flags of every script are what users' own scripts are written against."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

TRAINING = """
    --stage --data --images --image-root --model --output --template --image-mode --batch-size
    --device-batch-size --epochs --max-steps --max-tokens --group-by-modality --seed --workers
    --accelerator --device --precision --activation-checkpointing --loader-workers
    --match-file-names --prepare-workers --max-missing-share --max-failures --plan --show
    --demo-scenes
    --learning.vision-from --learning.vision-stem --learning.projector --learning.language
    --optimiser.learning-rate --optimiser.warmup-ratio --optimiser.beta1 --optimiser.beta2
    --optimiser.eps --optimiser.weight-decay --optimiser.clip
    --saving.every-min --saving.every-steps --saving.keep --saving.grace-s
    --store-patience-s --leave-out --pixels-max
    --expected.samples --expected.tokens --expected.learnt --expected.language
    --attention --compile --prefetch --reshard-after-forward --replicas
    --lora.rank --lora.alpha --lora.targets --lora.merge
    --validation-share --validate-every-steps --log-to
    --evaluation.benchmarks --evaluation.data --evaluation.every-steps --evaluation.limit
    --evaluation.max-tokens --evaluation.wait-min
    """


DECODE = """
    --decode.max-megapixels --decode.max-side-px --decode.min-side-px --decode.max-file-mib
    --decode.tiff --decode.exif-orientation --decode.reduced-jpeg --decode.deadline-s
    """

CAPTION_RULES = """
    --web.connect-timeout-s --web.disallowed-directives --web.host-rest-s --web.max-file-mib
    --web.max-host-failures --web.max-redirects --web.max-requests --web.max-requests-per-host
    --web.max-tries --web.max-wait-s --web.min-lost-hosts --web.silence-timeout-s
    --web.timeout-s --web.user-agent
    --sampling.max-tokens --sampling.temperature --sampling.top-p --sampling.repetition-penalty
    --sampling.stop-at-loops --sampling.seed
    --gate.enabled --gate.min-words --gate.max-words --gate.allow-truncated --gate.script
    --gate.max-other-script --gate.max-repeats --gate.min-compressed --gate.refusals
    --gate.boilerplate --gate.skip --gate.allow-json
    --gate.refuse-contradictions --gate.min-quality --gate.plugin
    --ladder.temperatures --ladder.top-p --ladder.repetition-penalty
    """

SETTINGS = """
    --settings.device --settings.dtype --settings.max-model-len --settings.max-num-seqs
    --settings.gpus-per-engine --settings.nodes-per-engine --settings.encoder-data-parallel
    --settings.quantization --settings.kv-cache-dtype --settings.adapter --settings.speculative
    --settings.mm-processor-kwargs --settings.engine-args
    --settings.max-num-batched-tokens --settings.gpu-memory-utilization
    --settings.enforce-eager --settings.kv-cache-gib --settings.cpus
    --settings.units-in-flight --settings.batch-size --settings.url
    --settings.more-endpoints --settings.key-variable --settings.upload
    --settings.picture-detail
    --settings.max-concurrent-requests --settings.request-timeout-s
    --settings.endpoint-patience-s --settings.silence-limit-s
    --settings.max-engine-starts --settings.fake-latency-s --settings.fake-faults
    """

FLAGS = {
    "caption.py": """
        --input --output --model --image-root --engine --prompt --prompts --sources
        --source-column --licences --template --limit --unit-size --engines --accelerator
        --retry-errors --captions-per-image --dedupe --plan --rate --price-per-hour --demo-scenes
        --image-column --only-missing --pixels-max --compare-with --revision
        --prompt-name --fields --json-schema --prefill --prepend --append --cut-prefix-words
        --quality.model --quality.device --quality.batch-size --quality.prefix
        """
    + SETTINGS
    + CAPTION_RULES
    + DECODE,
    "collect.py": """
        --input --output --model --image-root --sources --source-column --other-sources
        --aesthetic-share --unnamed --picture-long --picture-short --limit --unit-size --workers
        --licences --retry-errors --plan --sample --expected-tokens
        --endpoint.url --endpoint.concurrency --endpoint.timeout-s --endpoint.patience-s
        --endpoint.detail --endpoint.upload
        --budget.requests-per-minute --budget.tokens-per-minute --budget.spending
        --budget.input-price --budget.output-price
        --batch.enabled --batch.price-share --batch.max-mib --batch.max-requests --batch.max-open
        --batch.poll-s
        """
    + CAPTION_RULES
    + DECODE,
    "status.py": "--verify --compare-with",
    "score.py": """
        --model --device --batch-size --prefix --workers --accelerator --retry-errors
        """,
    "eval.py": """
        --score-only --compare --training-data --benchmarks --data --output --sources
        --input --references --clip
        --judge.url --judge.model --judge.runs --judge.max-concurrent-requests
        --judge.request-timeout-s --judge.patience-s --judge.retry-errors
        --model --endpoint --images --engine --revision --template --image-mode --max-tokens
        --limit --unit-size --engines --accelerator --retry-errors --plan --price-per-hour
        --demo-scenes
        """
    + SETTINGS
    + DECODE,
    "export.py": "--to --partial --with-images --form --shard-size",
    "dataset.py": "",
    "dataset.py audit": "--images --to --check",
    "dataset.py mix": "--captions --to --quota --scale --surplus --questions --seed",
    "dataset.py sample": "--to --count --seed",
    "dataset.py convert": "--to",
    "dataset.py shards": "--images --to --shard-size --match-file-names",
    "dataset.py card": "--to --provenance --licence",
    "synthesize.py": """
        --output --ability --count --writer --writer-engine --writer-format --painter --captioner
        --stages --abilities --prompts --dialogues --images --prompt-examples --dialogue-examples
        --keep --near --spare --test-share --benchmark-count --against --workers --accelerator
        --unit-size --demo-world --verified-only
        --sampling.max-tokens --sampling.temperature --sampling.top-p --sampling.repetition-penalty
        --sampling.stop-at-loops --sampling.seed
        --ladder.temperatures --ladder.top-p --ladder.repetition-penalty
        --painting.width --painting.height --painting.steps --painting.guidance
        --painting.negative-prompt --painting.seed
        """
    + SETTINGS,
    "dataset.py draw": "--views --seed --exam",
    "analyze.py": "--to --field --workers --limit",
    "verify.py": "--votes --host --port --results",
    "prefer.py": """
        --output --images --n --seed --key --match-file-names --host --port --results --judge
        --judge-model --judge-requests
        """,
    "convert.py": "--tower --language --projector --base",
    "train_captioner.py": TRAINING,
    "train_painter.py": """
        --output --scenes --text-steps --steps --batch-size --learning-rate --seed --threads
        --save-every-steps --scored
        """,
    "pretrain.py": TRAINING,
    "finetune.py": TRAINING,
    "reproduce.py": """
        --study --seeds --first-seed --output --quick --world-seed --cpus --plan --report
        """,
}
"""Flags grow on purpose only."""


_PRINT_HELPS = """
import contextlib, importlib, io, json, sys
helps = {}
for script in json.loads(sys.argv[1]):
    name, *command = script.split()
    sys.argv = [name]
    main = importlib.import_module("ray_jobs." + name.removesuffix(".py")).main
    said = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with contextlib.redirect_stdout(said):
        try:
            code = main([*command, "--help"])
        except SystemExit as end:
            code = end.code
    assert not code, script
    said.seek(0)
    helps[script] = said.read()
heavy = [m for m in ("ray", "torch", "transformers", "vllm") if m in sys.modules]
print(json.dumps({"helps": helps, "heavy": heavy}))
"""
"""One process for all, because each would spend most of its time on the same imports."""


@pytest.fixture(scope="module")
def printed() -> dict[str, Any]:
    """The `--help` of each script, and the heavy packages that were loaded to print them."""
    command = [sys.executable, "-c", _PRINT_HELPS, json.dumps(list(FLAGS))]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("script", FLAGS)
def test_a_script_has_exactly_its_flags(printed: dict[str, Any], script: str) -> None:
    shown = re.findall(r"^│ (?:-h, )?(--[a-z0-9.-]+)", printed["helps"][script], re.MULTILINE)
    assert set(shown) - {"--help"} == set(FLAGS[script].split())


def test_help_loads_nothing_heavy(printed: dict[str, Any]) -> None:
    assert printed["heavy"] == []


def test_the_command_s4v_has_every_script() -> None:
    from ray_jobs.console import COMMANDS

    assert {f"{name}.py" for name in COMMANDS} == {script.split()[0] for script in FLAGS}
