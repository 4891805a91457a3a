"""vLLM loads a converted checkpoint and gives the same captions as transformers."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from tests.conftest import write_tar
from tests.flow.oracle import check_rows
from tests.model.variants import (
    edit_config,
    edit_tensors,
    run_script,
    write_adapter,
    write_clip,
    write_language,
    write_loud,
    write_projector,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(500),
]


def _convert_plain(folder: Path, target: Path) -> None:
    """A share4v checkpoint with its tower in a folder."""
    write_loud(folder)
    assert run_script(folder, target) is None


def _convert_class_token(folder: Path, target: Path) -> None:
    """Features with the class token, scaled positions, a tied head, and a whole CLIP as tower."""
    write_loud(folder)
    edit_config(
        folder,
        mm_vision_select_feature="cls_patch",
        rope_scaling={"type": "linear", "factor": 4.0},
        tie_word_embeddings=True,
    )
    head = "lm_head.weight"
    edit_tensors(folder, lambda main: {k: v for k, v in main.items() if k != head})
    clip = write_clip(folder.with_name("clip"), folder)
    assert run_script(folder, target, "--tower", clip) is None


def _convert_merged(folder: Path, target: Path) -> None:
    """Vicuna, CLIP and a projector, and an adapter that is merged into all three."""
    write_loud(folder)
    language = write_language(folder.with_name("vicuna"), folder)
    clip = write_clip(folder.with_name("clip"), folder)
    projector = write_projector(folder.with_name("mm_projector.bin"), folder)
    start = folder.with_name("start")
    flags = ("--language", language, "--tower", clip, "--projector", projector)
    assert run_script(start, *flags) is None
    place = "base_model.model.model.language_model.layers.0.mlp.down_proj"
    factors = {"A": torch.randn(4, 256) * 0.3, "B": torch.randn(128, 4) * 0.3}
    tensors = {f"{place}.lora_{letter}.weight": value for letter, value in factors.items()}
    adapter = write_adapter(folder.with_name("lora"), tensors)
    assert run_script(adapter, target, "--base", start) is None


@pytest.mark.parametrize("convert", [_convert_plain, _convert_class_token, _convert_merged])
def test_vllm_and_transformers_give_the_same_captions_with_a_converted_checkpoint(
    tmp_path: Path, photos: dict[str, bytes], convert: Callable[[Path, Path], None]
) -> None:
    convert(tmp_path / "original", tmp_path / "ours")
    write_tar(tmp_path / "0000.tar", photos)
    captions = []
    for engine in ("vllm", "transformers"):
        job = CaptionJob(
            input=(str(tmp_path / "0000.tar"),),
            output=str(tmp_path / engine),
            model=str(tmp_path / "ours"),
            engine=engine,  # type: ignore[arg-type]
            sampling=SamplingConfig(max_tokens=16, stop_at_loops=False),
            gate=Gate(enabled=False),
            settings=EngineSettings(max_num_seqs=16),
        )
        run_pass(job)
        rows = check_rows(tmp_path / engine)
        assert {row["status"] for row in rows} == {"ok"}
        captions.append({row["image_id"]: row["caption"] for row in rows})
    same = sum(captions[0][name] == captions[1][name] for name in captions[0])
    assert same >= 0.95 * len(photos)
