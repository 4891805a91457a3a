"""vLLM loads a converted checkpoint and gives the same captions as transformers."""

from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.model.conversion import convert
from tests.conftest import write_tar
from tests.flow.oracle import check_rows
from tests.model.synthetic import write_original

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("local_ray"),
    pytest.mark.timeout(500),
]


def test_vllm_and_transformers_give_the_same_captions_with_a_converted_checkpoint(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    write_original(tmp_path / "original")
    convert(tmp_path / "original", tmp_path / "ours", None, lambda name: None)
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
