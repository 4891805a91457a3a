"""A small random Qwen2.5-VL: what training computes, resumes and exports."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.data.patch_collation import find_rope_positions
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Learning, Optimiser, Saving, TrainStage
from s4v_core.training.worker.components import build_module, build_reader
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import open_local_world
from tests.architectures.qwen import build_qwen2_5_vl
from tests.conftest import photo

SIZES = ((90, 70), (200, 120), (56, 56), (400, 80), (64, 300), (120, 120))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "model"
    build_qwen2_5_vl(folder)
    return folder


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with an image, with two, with none, in several turns, and a broken one."""
    folder = tmp_path_factory.mktemp("lessons")
    for number, size in enumerate(SIZES):
        (folder / f"{number}.jpg").write_bytes(photo(number, size))
    (folder / "broken.jpg").write_bytes(photo(1, (40, 40))[:150])
    rows: list[tuple[list[str], list[str]]] = [
        ([f"{n}.jpg"], ["<image>\nWhat is this?", f"A picture, number {n}."]) for n in range(6)
    ]
    rows.append((["0.jpg", "1.jpg"], ["<image><image>Which is larger?", "The second one."]))
    rows.append(([], ["Hello?", "Hello.", "And now?", "Nothing."]))
    rows.append(
        (["2.jpg"], ["<image>Look.", "Yes.", "What is it?", "A square <|im_end|> of noise."])
    )
    rows.append((["broken.jpg"], ["<image>\nWhat is this?", "Never learnt."]))
    records = [
        {
            "images": images,
            "messages": [
                {"role": ("user", "assistant")[at % 2], "content": text}
                for at, text in enumerate(texts)
            ],
        }
        for images, texts in rows
    ]
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _job(lessons: Path, qwen: Path, output: Path, **changes: Any) -> TrainStage:
    settings: dict[str, Any] = {
        "stage": "finetune", "data": (str(lessons / "data.json"),), "model": str(qwen),
        "output": str(output), "template": "model", "image_mode": "native",
        "learning": Learning(vision_from=1), "batch_size": 10, "device_batch_size": 10,
        "optimiser": Optimiser(learning_rate=1e-3, warmup_ratio=0.0), "device": "cpu",
        "loader_workers": 0, "max_missing_share": 0.5, "epochs": 3,
        "expected": {"samples": 10, "tokens": 60, "learnt": 20},
    }  # fmt: skip
    return TrainStage.model_validate(settings | changes)


def _compute_loss(model: Any, processor: Any, lessons: Path) -> torch.Tensor:
    """The mean loss by transformers alone: each sample by itself, as its processor makes it."""
    total, learnt = torch.zeros(()), 0
    for record in json.loads((lessons / "data.json").read_text()):
        if "broken.jpg" in record["images"]:
            continue
        pictures = [Image.open(lessons / name) for name in record["images"]]
        texts = [
            message["content"].replace("<image>", "").strip() for message in record["messages"]
        ]
        messages = [
            {
                "role": ("user", "assistant")[at % 2],
                "content": [
                    *([{"type": "image"}] * (len(pictures) if at == 0 else 0)),
                    {"type": "text", "text": text},
                ],
            }
            for at, text in enumerate(texts)
        ]
        rendered = processor.apply_chat_template(messages)
        # The words that spell an end are split by hand; nothing else of the text is special.
        ids = processor(text=rendered, images=pictures or None, return_tensors="pt")
        labels = _label_answers(processor, ids["input_ids"][0], texts[1::2])
        logits = model(**ids).logits[0, :-1].float()
        wanted = labels[1:]
        total = total + torch.nn.functional.cross_entropy(
            logits, wanted, ignore_index=-100, reduction="sum"
        )
        learnt += int((wanted != -100).sum())
    return total / learnt


def _label_answers(processor: Any, ids: torch.Tensor, answers: list[str]) -> torch.Tensor:
    """Labels of the answers and of the end behind each, found by searching for their ids."""
    tokenizer = processor.tokenizer
    start_id = tokenizer.convert_tokens_to_ids("<|im_start|>")
    lead = [start_id, *tokenizer("assistant\n").input_ids]
    found, labels = ids.tolist(), torch.full_like(ids, -100)
    places = [at for at in range(len(found)) if found[at : at + len(lead)] == lead]
    for place, answer in zip(places, answers, strict=True):
        begin = place + len(lead)
        end = begin + len(tokenizer(answer).input_ids) + 1
        labels[begin:end] = ids[begin:end]
    return labels


@pytest.fixture(scope="module")
def clean(lessons: Path) -> Path:
    """The same samples without words that spell a special token."""
    records = json.loads((lessons / "data.json").read_text().replace(" <|im_end|>", ""))
    folder = lessons / "clean"
    folder.mkdir()
    for path in lessons.glob("*.jpg"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def test_loss_and_gradient_are_those_of_transformers(
    clean: Path, qwen: Path, tmp_path: Path
) -> None:
    job = _job(clean, qwen, tmp_path / "run")
    _, spec = prepare_run(check_stage(job))
    with open_local_world("cpu") as world:
        module = build_module(spec, world)
        (batch,) = build_reader(spec, world)[0]
        loss = module(batch) / batch.learnt
        loss.backward()
        ours = {
            name: parameter.grad.full_tensor()
            for name, parameter in module.model.named_parameters()
            if parameter.grad is not None
        }
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen).train()
    wanted = _compute_loss(model, AutoProcessor.from_pretrained(qwen), clean)
    assert float(loss) == pytest.approx(float(wanted), abs=2e-5)
    wanted.backward()
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert any("visual.blocks.1" in name for name in ours)
    assert not any("visual.blocks.0" in name for name in ours)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], atol=2e-5, rtol=1e-3, msg=name)
    assert batch.skipped
    assert batch.images == 10  # nine of the samples, and a blank one for the broken image


def test_positions_in_time_height_and_width_are_those_of_transformers(qwen: Path) -> None:
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    grids = np.array([[1, 4, 6], [1, 2, 2], [1, 8, 2]])
    is_image = np.array([0, 0, 1, 0, 1, 0, 1, 0, 0], bool)
    repeats = np.ones(9, int)
    repeats[is_image] = grids.prod(1) // 4
    kinds = torch.from_numpy(np.repeat(is_image, repeats).astype(np.int64))[None]
    ids = torch.where(kinds.bool(), model.config.image_token_id, 1)
    wanted, _ = model.model.get_rope_index(ids, kinds, torch.from_numpy(grids))
    assert np.array_equal(find_rope_positions(is_image, grids, 2), wanted[:, 0].numpy())


def test_a_run_resumes_exactly_and_its_export_says_what_the_trained_model_says(
    lessons: Path, qwen: Path, tmp_path: Path
) -> None:
    whole = run_stage(_job(lessons, qwen, tmp_path / "whole", batch_size=5, device_batch_size=5))
    assert whole.done == whole.steps == 6
    parts = _job(
        lessons, qwen, tmp_path / "parts", batch_size=5, device_batch_size=5,
        saving=Saving(every_steps=1),
    )  # fmt: skip
    _, spec = prepare_run(check_stage(parts))
    session = LocalSession(lambda metrics: session.request_stop() if metrics.step == 2 else None)
    with open_local_world("cpu") as world:
        train(spec, world, session)
    run_stage(parts)
    losses = [[m.loss for m in read_metrics(str(tmp_path / n))] for n in ("whole", "parts")]
    assert losses[0] == losses[1]
    assert losses[0][-1] < losses[0][0]
    model, report = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        tmp_path / "whole" / "model", output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.bfloat16
    processor = AutoProcessor.from_pretrained(tmp_path / "whole" / "model")
    assert processor.image_processor.size["longest_edge"] == 1280 * 28 * 28
    assert processor.chat_template == AutoProcessor.from_pretrained(qwen).chat_template
    ends = json.loads((tmp_path / "whole" / "model" / "generation_config.json").read_text())
    assert len(ends["eos_token_id"]) == 2


def test_lora_leaves_the_weights_and_its_export_is_their_sum(
    lessons: Path, qwen: Path, tmp_path: Path
) -> None:
    outcome = run_stage(
        _job(
            lessons,
            qwen,
            tmp_path / "run",
            learning=Learning(),
            lora={"rank": 4, "targets": ("q_proj", "down_proj")},
        )
    )
    assert outcome.exit_code == 0
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "run" / "model")
    start: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(qwen)
    changed = {
        name
        for (name, new), old in zip(model.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(new.float(), old.to(torch.bfloat16).float())
    }
    wanted = {
        f"{name}.weight"
        for name, _ in model.named_modules()
        if "language_model" in name and name.endswith(("q_proj", "down_proj"))
    }
    assert changed == wanted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"template": "vicuna_v1"}, "--template model --image-mode native"),
        ({"image_mode": "pad"}, "--template model --image-mode native"),
        ({"learning": {}, "lora": {"rank": 2, "targets": ("linear_1",)}}, "does not have"),
    ],
)
def test_what_does_not_go_with_the_family_is_refused_before_anything_is_written(
    changes: dict[str, Any], words: str, lessons: Path, qwen: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=words):
        run_stage(_job(lessons, qwen, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_a_llava_model_takes_no_native_images(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="allowed vicuna_v1 or plain"):
        run_stage(_job(lessons, checkpoint, tmp_path / "run"))
