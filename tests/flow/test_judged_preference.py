"""A judge model on the question of Table 2, through the durable flow."""

import json
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.prefer import main
from tests.analysis.preference_study import SETS, write_sets
from tests.engines.weather_endpoint import WeatherEndpoint, complete, open_endpoint

IMAGES = 12


def ask(folder: Path, endpoint: WeatherEndpoint, model: str = "org/judge") -> tuple[int, Any]:
    sets = [str(folder / one) for one in SETS]
    flags = ["--output", str(folder / "study"), "--n", str(IMAGES)]
    code = main([*sets, *flags, "--judge", endpoint.url, "--judge-model", model])
    figures = json.loads((folder / "study" / "results.json").read_text())
    return code, figures


@pytest.mark.usefixtures("local_ray")
def test_a_judge_resumes_without_asking_again_and_judges_stand_side_by_side(
    tmp_path: Path,
) -> None:
    folder = write_sets(tmp_path, IMAGES)
    with open_endpoint() as endpoint:
        endpoint.reply = lambda body, text: (200, complete(body, "1"))
        assert ask(folder, endpoint)[0] == 0
        count = len(endpoint.requests)
        assert count == 2 * IMAGES
        assert ask(folder, endpoint)[0] == 0
        assert len(endpoint.requests) == count
        code, figures = ask(folder, endpoint, "org-judge")  # nearly the same name
        assert code == 0
        assert [one["model"] for one in figures["judges"]] == ["org-judge", "org/judge"]
        for one in figures["judges"]:
            assert one["text_1_share"] == 1
            assert one["same_in_both_orders"] == 0
            assert one["shares"]["comparable"]["count"] == IMAGES
