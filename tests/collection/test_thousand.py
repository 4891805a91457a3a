"""A thousand images: by a teacher with every fault, and by our own endpoint."""

import tarfile
from collections import Counter
from pathlib import Path

import pytest

from s4v_core.demo.scene_files import write_scenes
from tests.collection.collected_run import (
    check_ids,
    collect,
    find_busiest,
    list_flags,
    open_teacher,
    read_rows,
    write_images,
)
from tests.collection.teacher_server import Faults
from tests.collection.test_collect import FINAL, STORM, check_rows
from tests.serve.service import ALONE, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COUNT = 1000


def test_every_fault_within_the_budget_of_every_minute(tmp_path: Path) -> None:
    budget = 450
    images = write_images(tmp_path / "data", COUNT)
    faults = Faults(first=STORM, always=FINAL, is_strict=True, delay_s=0.1)
    with open_teacher(tmp_path / "a", faults) as teacher:
        more = ["--budget.requests-per-minute", str(budget), "--workers", "2"]
        flags = list_flags(images, tmp_path / "out", [teacher.url], *more)
        code, out, err = collect(tmp_path, flags, limit_s=1500)
        assert code == 0, err
        arrivals = teacher.list_arrivals()
        assert len(arrivals) > COUNT  # repeated ones count, too
        assert find_busiest(arrivals) <= budget
        assert arrivals[-1] - arrivals[0] > 120
        assert max(teacher.count_paid().values()) == 1
    rows = check_ids(tmp_path / "out", COUNT)
    check_rows(rows)
    assert Counter(row["status"] for row in rows)["ok"] > 600
    assert "1000 of 1000 images" in out


def test_our_own_endpoint_with_the_demo_captioner(local_ray: None, tmp_path: Path) -> None:
    scenes = tmp_path / "scenes"
    write_scenes(scenes, COUNT)
    model = {"id": "teacher", "path": "demo", "scaling": ALONE, "settings": {"cpus": 1}}
    with served(tmp_path, model) as service:
        flags = list_flags(scenes, tmp_path / "out", [f"{service.address}/v1"])
        code, out, err = collect(tmp_path, flags, limit_s=1500, OPENAI_API_KEY=service.key)
    assert code == 0, err
    rows = read_rows(tmp_path / "out")
    names = set()
    for shard in scenes.glob("*.tar"):
        with tarfile.open(shard) as tar:
            names |= {f"{shard.stem}/{Path(n).stem}" for n in tar.getnames() if n.endswith(".jpg")}
    assert len(rows) == len(names) == COUNT
    assert {row["image_id"] for row in rows} == names
    assert all(row["prompt_tokens"] and row["cost_micro"] for row in rows)
    assert "1000 of 1000 images" in out
