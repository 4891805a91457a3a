"""One pass of the flow as values: what its tasks and actors are told, and what comes out."""

from dataclasses import dataclass

from s4v_core.captioning.prompts import Prompt
from s4v_core.engines.requests import Dedupe, EngineSpec, Judge, SamplingConfig
from s4v_core.images.policy import DecodeConfig, Framing


@dataclass(frozen=True, slots=True)
class PassSpec:
    """Small and picklable; it travels to every worker.

    Attributes:
        output: Folder of the run, where the plan lies and units go.
        plan_digest: Stamped on every unit.
        model: As the job names it; the engine's own may be that folder on this machine.
        samplings: The first attempt's, and those of the attempts after a rejection.
        gate: Judges every caption; picklable.
        prompts: One of them per image, chosen by the image's id.
        dedupe: Whether equal images are captioned once.
        heal: Take the units that exist, do their failed rows again, and replace their files.
    """

    output: str
    plan_digest: str
    run_id: str
    engine: EngineSpec
    model: str
    model_revision: str
    samplings: tuple[SamplingConfig, ...]
    gate: Judge
    decode: DecodeConfig
    framing: Framing
    prompts: tuple[Prompt, ...]
    captions_per_image: int = 1
    dedupe: Dedupe = "off"
    heal: bool = False


@dataclass(frozen=True, slots=True)
class Engines:
    """How many engine actors, and on what.

    Attributes:
        accelerator: Ray's accelerator type, for example A100-80G; None takes any GPU.
    """

    count: int
    accelerator: str | None = None


COMMIT_CPUS = 0.25
"""Of a unit's commit, which waits for the store; reading and decoding take a whole one."""

STAGES = {
    "read": "read_s",
    "decode": "decode_s",
    "engine": "generate_s",
    "idle": "idle_s",
    "write": "commit_s",
}
"""Where a pass's time goes, as people are told, and the field of UnitDone that says how much."""


@dataclass(frozen=True, slots=True)
class UnitDone:
    """One unit on its way out of the flow; times are seconds of work, but for idle_s and queued_s.

    Attributes:
        rows: Of the unit's file; of these `generated` went through the flow now.
        generated_ok: Of these, the ones with a caption.
        reasons: (reason, count) of the others.
        attempts: Captions that were generated for them, rejected ones included.
        engine_starts: Engines that were started since the last unit, to replace dead ones.
        wrote: False where somebody else had committed the unit.
        idle_s: Time for which its engine had nothing to do before this unit came.
        queued_s: Time between its last caption and the beginning of its commit.
    """

    unit: int
    rows: int
    generated: int
    generated_ok: int
    reasons: tuple[tuple[str, int], ...]
    attempts: int
    engine_starts: int
    ok: int
    rejected: int
    error: int
    output_tokens: int
    wrote: bool
    read_s: float
    decode_s: float
    generate_s: float
    idle_s: float
    queued_s: float
    commit_s: float
