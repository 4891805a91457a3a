"""The credit of every unit of a score, for tests over several runs."""

import json
from collections.abc import Sequence

from s4v_core import storage
from s4v_core.evaluation.scoring import Score

CREDITS = "credits.json"


def write_credits(output: str, scores: Sequence[Score]) -> str:
    """Write the units of each benchmark by figure: key, credit, the most that it can be by the
    benchmark's rule, and stratum; a figure is the sum over strata of 100 * credits / most.

    Returns:
        URI of the file.
    """
    found = {
        score.benchmark.name: {
            name: [[one.key, one.credit, one.against, one.stratum] for one in units]
            for name, units in score.benchmark.units(score.matched.marked).items()
        }
        for score in scores
        if not score.unscored
    }
    place = storage.join(output, CREDITS)
    storage.Receipts(output, place).put(json.dumps(found, indent=0).encode())
    return place
