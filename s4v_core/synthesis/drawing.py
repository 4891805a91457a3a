"""The stage that draws every image of the entries, in waves: entries may be added later."""

from collections.abc import Iterator, Sequence

from s4v_core import storage
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.spec import Engines
from s4v_core.records.plan import read_plan_head
from s4v_core.records.unit_shards import UnitShards
from s4v_core.records.units import UnitFolder
from s4v_core.synthesis.entries import Entry
from s4v_core.synthesis.painting import PAINTED, PaintTask, PromptToDraw, plan_prompt
from s4v_core.synthesis.waves import (
    PlannedRow,
    StageRun,
    list_planned_keys,
    run_waves,
    wave_folder,
)


def draw_images(
    output: str,
    entries: Sequence[Entry],
    painter: EngineSpec,
    engines: Engines | None = None,
    unit_size: int = 64,
) -> StageRun:
    """Draw every image of the entries that was not planned before."""

    def plan_wave(wave: int) -> list[PlannedRow]:
        planned = list_planned_keys(output, PAINTED)
        return [row for entry in entries for row in _plan(entry) if row["image_id"] not in planned]

    revision = painter.revision or ""
    stage = run_waves(
        output,
        plan_wave,
        lambda wave: PaintTask(painter.model, revision),
        painter,
        {"model_revision": revision},
        most_waves=1000,
        engines=engines,
        unit_size=unit_size,
    )
    for outcome in stage.outcomes:
        if outcome.has_run:
            units = UnitFolder(outcome.output, PAINTED)
            UnitShards(outcome.output, PAINTED).remove_leftovers(units)
    return stage


def list_shard_folders(output: str) -> Iterator[str]:
    """The folders with the tars of drawn images, one for each wave."""
    wave = 1
    while read_plan_head(folder := wave_folder(output, wave)) is not None:
        place = UnitShards(folder, PAINTED).folder
        if storage.is_folder(place):
            yield place
        wave += 1


def _plan(entry: Entry) -> Iterator[PlannedRow]:
    pairs = zip(entry.name_images(), entry.prompts, strict=True)
    for number, (image_id, prompt) in enumerate(pairs):
        yield plan_prompt(PromptToDraw(image_id, prompt, number, entry.ability))
