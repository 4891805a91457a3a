"""The table of samples: what is left out, what may change until a step is trained, and what must
not change afterwards."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from s4v_core import chat
from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.errors import ChangedInputError, ConfigError, InputError
from s4v_core.training import preparation
from s4v_core.training.checks import check_stage
from s4v_core.training.data import sample_parts
from s4v_core.training.data.sample_parts import Part, PartEncoder, encode_parts
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, Optimiser, TrainStage
from s4v_core.training.worker.step_metrics import read_metrics
from tests.conftest import photo

Job = Callable[..., TrainStage]
SHAPES = ("circle", "square", "triangle")


def _record(number: int, image: str | None = None) -> dict[str, Any]:
    said = [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": f"A red {SHAPES[number % 3]}."},
    ]
    return {"id": str(number), "image": image or f"{number % 8}.jpg", "conversations": said}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve records about eight images."""
    for number in range(8):
        (tmp_path / f"{number}.jpg").write_bytes(photo(number, (60, 50)))
    path = tmp_path / "data.json"
    path.write_text(json.dumps([_record(number) for number in range(12)]))
    return path


@pytest.fixture
def job(data: Path, checkpoint: Path, tmp_path: Path) -> Job:
    def build(**changes: Any) -> TrainStage:
        settings: dict[str, Any] = {
            "stage": "finetune",
            "data": (str(data),),
            "model": str(checkpoint),
            "output": str(tmp_path / "run"),
            "template": "vicuna_v1",
            "image_mode": "pad",
            "learning": Learning(),
            "batch_size": 4,
            "device_batch_size": 4,
            "max_steps": 1,
            "optimiser": Optimiser(learning_rate=1e-3),
            "device": "cpu",
            "loader_workers": 0,
            "expected": {"samples": 12, "tokens": 60, "learnt": 20},
        }
        return TrainStage.model_validate(settings | changes)

    return build


def _list_skipped(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(output) / "skipped.jsonl").read_text().splitlines()]


def _read_table(output: str) -> pa.Table:
    with pa.memory_map(f"{output}/samples.arrow") as file:
        return pa.ipc.open_file(file).read_all()


BROKEN: list[Callable[[dict[str, Any]], object]] = [
    lambda record: record["conversations"][1].update(value=None),
    lambda record: record.pop("conversations"),
    lambda record: record.update(image={"height": 3}),
    lambda record: record["conversations"][0].update({"from": "tool"}),
    lambda record: record["conversations"][1].update(value=["<image>", 3]),
    lambda record: record["conversations"].insert(0, "hello"),
]


@pytest.mark.parametrize("spoil", BROKEN, ids=[str(number) for number in range(len(BROKEN))])
def test_one_bad_record_of_200_is_a_line_and_the_run_starts(
    job: Job, data: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    records = [_record(number) for number in range(200)]
    spoil(records[150])
    data.write_text(json.dumps(records))
    counts, _ = prepare_run(check_stage(job()))
    assert (counts.samples, counts.skipped) == (199, {"bad_record": 1})
    [line] = _list_skipped(job().output)
    assert (line["record"], line["sample_id"], line["reason"]) == (151, "150", "bad_record")
    assert line["field"]
    assert "needed" in line["found"]


def test_the_sentence_of_a_refusal_names_the_first_bad_field(job: Job, data: Path) -> None:
    data.write_text(json.dumps([{"query": "a", "response": "b"}] * 3))
    sentence = r"holds no sample to train on \(bad_record 3; the first is record 1, field conv"
    with pytest.raises(InputError, match=sentence):
        prepare_run(check_stage(job()))


def test_a_refused_start_stops_no_corrected_one(job: Job, data: Path) -> None:
    data.write_text(json.dumps([_record(0), _record(1, "gone.jpg")]))
    with pytest.raises(InputError, match=r"50\.0% of the samples"):
        prepare_run(check_stage(job()))
    # Whatever was wrong, each of these is a correction in the same folder.
    prepare_run(check_stage(job(max_missing_share=0.5)))
    prepare_run(check_stage(job(max_missing_share=0.5, seed=3, epochs=2)))
    with pytest.raises(InputError, match=r"50\.0% of the samples"):
        prepare_run(check_stage(job()))
    data.write_text(json.dumps([_record(0), _record(1)]))
    counts, _ = prepare_run(check_stage(job()))
    assert (counts.samples, counts.skipped) == (2, {})
    about = json.loads((Path(job().output) / "run.json").read_text())
    assert about["settings"]["seed"] == 0


def test_settings_that_change_before_the_first_step_make_other_samples(job: Job) -> None:
    _, before = prepare_run(check_stage(job()))
    _, same = prepare_run(check_stage(job()))
    assert same.samples_sha256 == before.samples_sha256
    _, other = prepare_run(check_stage(job(template="plain", image_mode="crop")))
    assert other.samples_sha256 != before.samples_sha256
    assert run_stage(job(template="plain", image_mode="crop")).done == 1
    with pytest.raises(ConfigError, match="was made with template 'plain', found 'vicuna_v1'"):
        check_stage(job())


@pytest.fixture
def begun(job: Job) -> TrainStage:
    """A job of two steps that has made the first one."""
    from s4v_core.training.worker.loop import train
    from s4v_core.training.worker.session import LocalSession
    from s4v_core.training.worker.world import open_local_world

    two = job(max_steps=2)
    _, spec = prepare_run(check_stage(two))
    session = LocalSession(lambda metrics: session.request_stop())
    with open_local_world("cpu") as world:
        train(spec, world, session)
    return two


EDITS: dict[str, Callable[[str], str]] = {
    "another answer": lambda text: text.replace("circle", "square", 1),
    "another answer as long": lambda text: text.replace("red", "rad", 1),
    "one record less": lambda text: json.dumps(json.loads(text)[:-1]),
    "another order": lambda text: json.dumps(json.loads(text)[::-1]),
    "a record more": lambda text: json.dumps([*json.loads(text), _record(3)]),
    "cut": lambda text: text[:-30],
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_data_that_are_edited_after_the_start_are_noticed(
    begun: TrainStage, data: Path, edit: Callable[[str], str]
) -> None:
    before = data.read_text()
    data.write_text(edit(before))
    with pytest.raises(ChangedInputError, match=r"data\.json .* then, .* changed since the samp"):
        run_stage(begun)
    # The same content in a new file is no edit.
    data.unlink()
    data.write_text(before)
    assert run_stage(begun).done == 2
    assert len(read_metrics(begun.output)) == 2


def test_data_that_are_gone_do_not_stop_a_run_that_has_read_them(
    begun: TrainStage, data: Path
) -> None:
    data.unlink()
    assert run_stage(begun).done == 2


@pytest.mark.parametrize("kind", ["replaced", "moved", "touched in place"])
def test_images_that_are_replaced_after_the_start_are_noticed(
    begun: TrainStage, data: Path, kind: str
) -> None:
    for number in range(6):
        image = data.parent / f"{number}.jpg"
        if kind == "moved":
            image.rename(data.parent / f"moved-{number}.jpg")
        elif kind == "replaced":
            image.write_bytes(photo(50 + number, (60, 50)))
        else:
            os.utime(image, (1, 1))
    with pytest.raises(ChangedInputError, match="like 6 of 8 files of images that were compared"):
        run_stage(begun)
    assert run_stage(begun.replace(max_missing_share=0.8)).done == 2


def test_samples_of_an_earlier_version_are_refused_once_a_step_is_trained(
    begun: TrainStage,
) -> None:
    head = Path(begun.output) / "samples.json"
    old = json.loads(head.read_text())
    for name in ("version", "made_from", "data"):
        del old[name]
    head.write_text(json.dumps(old))
    with pytest.raises(ConfigError, match=r"prepared by another version .* choose another --out"):
        run_stage(begun)


def test_any_number_of_processes_makes_the_same_table(
    job: Job, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_parts, "_PART_SAMPLES", 16)
    records = [_record(number) for number in range(150)]
    records[70]["image"] = "gone.jpg"
    records[99]["conversations"].pop()
    data.write_text(json.dumps(records))
    share = {"max_missing_share": 0.1}
    one, _ = prepare_run(check_stage(job(prepare_workers=0, **share)))
    other = job(prepare_workers=2, output=str(tmp_path / "other"), **share)
    two, _ = prepare_run(check_stage(other))
    assert one == two
    assert one.skipped == {"no_turns": 1, "not_found": 1}
    assert _read_table(job().output).equals(_read_table(other.output))
    assert _list_skipped(job().output) == _list_skipped(other.output)
    assert not (Path(other.output) / "preparing").exists()


def _encoder(job: TrainStage, kind: type[PartEncoder] = PartEncoder) -> PartEncoder:
    checked = check_stage(job)
    return kind(job.output, chat.find_template(job.template), checked.encoder, "settings")


def _join(data: Path) -> Iterator[PlacedConversation | Unusable]:
    return join_images((str(data),), (), None)


def test_a_preparation_that_was_interrupted_goes_on(
    job: Job, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_parts, "_PART_SAMPLES", 10)
    records = [_record(number) for number in range(100)]
    data.write_text(json.dumps(records))
    encoder = _encoder(job())
    started = encode_parts(_join(data), encoder, 0)
    for _ in range(4):
        next(started)
    started.close()
    folder = Path(job().output) / "preparing"
    made = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(made) == 4
    records[15]["conversations"][1]["value"] = "An edited answer."
    data.write_text(json.dumps(records))
    parts = list(encode_parts(_join(data), encoder, 0))
    assert sum(part.rows.num_rows for part in parts) == 100
    assert {path: path.stat().st_mtime_ns for path in made} == made
    # The part with the edited record is made again, the other nine of ten are the stored ones.
    assert len(list(folder.iterdir())) == 11
    whole = [part.rows for part in encode_parts(_join(data), _encoder(job(output="memory://x")), 0)]
    assert [part.rows for part in parts] == whole


class _DyingEncoder(PartEncoder):
    def encode(self, samples: Any, is_kept: bool) -> Part:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("is dead")


def test_a_process_that_dies_ends_the_preparation_in_a_sentence(
    job: Job, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_parts, "_PART_SAMPLES", 4)
    with pytest.raises(ConfigError, match=r"one of 2 processes died.*smaller --prepare-workers"):
        list(encode_parts(_join(data), _encoder(job(), _DyingEncoder), 2))


def test_a_run_learns_from_several_images_of_a_sample(job: Job, data: Path) -> None:
    said = (
        *(("user", "<image><image>Same?"), ("assistant", "No.")),
        *(("user", "And <image>?"), ("assistant", "Yes.")),
    )
    messages = [{"role": who, "content": text} for who, text in said]
    records: list[dict[str, Any]] = [
        {"id": "three", "images": ["0.jpg", "1.jpg", "2.jpg"], "messages": messages},
        {"id": "broken", "images": ["3.jpg", "bad.jpg", "4.jpg"], "messages": messages},
        {"id": "many", "images": ["5.jpg"] * 40, "messages": messages[:2]},
        {"id": "many", "images": ["5.jpg"] * 40, "messages": [
            {"role": "user", "content": "<image>" * 40}, messages[1]]},
        _record(6),
        {"id": "text", "messages": [{"role": "user", "content": "Hi"}, messages[1]]},
    ]  # fmt: skip
    (data.parent / "bad.jpg").write_bytes(photo(9)[:300])
    data.write_text(json.dumps(records))
    outcome = run_stage(job(max_missing_share=0.5, max_tokens=256))
    assert outcome.skipped == {"images_and_marks_differ": 1, "too_long": 1}
    [step] = outcome.metrics
    assert (step.samples, step.images, step.skipped) == (4, 7, 1)
    assert outcome.audit.skipped == {"truncated": 1}
    assert outcome.exit_code == 0


_PREPARE = """
import sys
from s4v_core.training.checks import check_stage
from s4v_core.training.data import sample_parts
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import TrainStage

if __name__ == "__main__":
    sample_parts._PART_SAMPLES = 64
    prepare_run(check_stage(TrainStage.model_validate_json(sys.argv[1])))
"""


@pytest.mark.slow
def test_a_preparation_that_is_killed_leaves_no_process_and_goes_on(
    job: Job, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_parts, "_PART_SAMPLES", 64)
    data.write_text(json.dumps([_record(number) for number in range(20_000)]))
    script = tmp_path / "prepare.py"
    script.write_text(_PREPARE)
    parallel = job(prepare_workers=2)
    command = [sys.executable, str(script), parallel.model_dump_json()]
    started = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.getcwd()})
    folder = Path(parallel.output) / "preparing"
    _wait_until(lambda: folder.exists() and len(list(folder.glob("*.arrow"))) > 20)
    children = psutil.Process(started.pid).children(recursive=True)
    assert len(children) >= 2
    started.kill()
    started.wait()
    _wait_until(lambda: not any(_is_alive(child) for child in children))
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.arrow")}
    kept: dict[str, int] = {}
    monkeypatch.setattr(
        preparation,
        "discard_parts",
        lambda output: kept.update({p.name: p.stat().st_mtime_ns for p in folder.iterdir()}),
    )
    counts, _ = prepare_run(check_stage(job(prepare_workers=0)))
    assert counts.samples == 20_000
    assert len(kept) > len(made) > 20
    assert {name: kept[name] for name in made} == made
    prepare_run(check_stage(job(prepare_workers=0, output=str(tmp_path / "whole"))))
    assert _read_table(parallel.output).equals(_read_table(str(tmp_path / "whole")))


def _wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not is_true():
        assert time.monotonic() < end, "waited for two minutes"
        time.sleep(0.05)


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
