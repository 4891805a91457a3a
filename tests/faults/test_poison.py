"""Images that kill or hang engines and workers, or get no caption: each ends as a row."""

from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.fake_faults import Fault
from s4v_core.engines.settings import EngineSettings
from tests.faults.world import build_world

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(400)]

FAULTS = {
    5: Fault.EXIT,
    6: Fault.SEGV,
    70: Fault.ASSERT,
    150: Fault.HOG,
    151: Fault.HANG,
    200: Fault.WORKER,
    300: Fault.WORKER,
    10: Fault.LOOP,
    210: Fault.LOOP,
    215: Fault.REFUSAL,
}
ENDS = {
    Fault.EXIT: ("error", "engine_died", 1),
    Fault.SEGV: ("error", "engine_died", 1),
    Fault.ASSERT: ("error", "engine_died", 1),
    Fault.HOG: ("error", "engine_died", 1),
    Fault.HANG: ("error", "hang", 1),
    Fault.WORKER: ("error", "worker_died", 1),
    Fault.LOOP: ("ok", None, 2),
    Fault.REFUSAL: ("rejected", "refusal", 4),
}


def test_every_broken_image_ends_as_a_row_and_no_other_is_lost(tmp_path: Path) -> None:
    world = build_world(tmp_path / "shards", images=320, shards=5, faults=FAULTS)
    job = CaptionJob(
        input=(str(world.shards),),
        output=str(tmp_path / "out"),
        model="none",
        engine="fake",
        unit_size=32,
        settings=EngineSettings(fake_faults=True, silence_limit_s=3),
    )
    outcome = run_pass(job)
    assert outcome.exit_code == 0
    rows = world.prove(tmp_path / "out")
    found = {
        fault: (rows[i]["status"], rows[i]["reason"], rows[i]["attempts"])
        for i, fault in world.faults.items()
    }
    assert found == ENDS
