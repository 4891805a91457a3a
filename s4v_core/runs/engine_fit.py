"""The preflight of a run: pictures and lengths that fit the model, found before any write."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from s4v_core import storage
from s4v_core.checkpoints import locate_checkpoint
from s4v_core.engines.preflight import Preflight, Question, UntriedError, check_checkpoint
from s4v_core.engines.settings import EngineSpec
from s4v_core.engines.vllm_arguments import refuse_small_steps
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import UNITS_IN_FLIGHT
from s4v_core.images.policy import Framing
from s4v_core.model.checkpoint_facts import CheckpointFacts
from s4v_core.records.schemas import UNIT_SIZE

_UNIT_BYTES = 2 << 30
"""Bytes that the pictures of one unit may take in a worker's memory and in the object store."""

_MOST_UNITS_IN_FLIGHT = 8

_TRIED_PROMPTS = 16
"""Prompts that are tried, the longest ones."""


@dataclass(frozen=True, slots=True)
class Fit:
    """An engine and a framing that fit together.

    Attributes:
        preflight: What the checkpoint's processor made of a picture and the prompts; None if the
            engine has no checkpoint here, or transformers cannot load its processor.
        note: Why there was no preflight.
    """

    engine: EngineSpec
    facts: CheckpointFacts
    preflight: Preflight | None = None
    note: str = ""


def limit_pictures(framing: Framing, pixels_max: int | None) -> Framing:
    """The framing with at most `pixels_max` pixels.

    Raises:
        ConfigError: The model takes squares of a fixed size, and they have more.
    """
    if pixels_max is None or framing.size_px**2 <= pixels_max:
        return framing
    if framing.mode in ("crop", "pad"):
        raise ConfigError(
            f"pixels_max: found {pixels_max}, needed at least {framing.size_px**2}: this model "
            f"takes squares of {framing.size_px} x {framing.size_px} pixels"
        )
    return replace(framing, mode="area", size_px=math.isqrt(pixels_max))


def fit_engine(
    engine: EngineSpec,
    facts: CheckpointFacts,
    prompts: Sequence[str],
    answer_tokens: int,
    spare_tokens: int = 0,
    length_flag: str = "--sampling.max-tokens",
) -> Fit:
    """Find the pictures and the lengths with which an engine can answer all prompts.

    Args:
        answer_tokens: Length of the longest answer.
        spare_tokens: Room for what is filled into the prompts later.
        length_flag: The flag that shortens the longest answer.

    Raises:
        ConfigError: A picture, its prompt and its answer do not fit into the model, or its
            processor cannot be used.
    """
    if engine.name not in ("vllm", "transformers"):
        return Fit(engine, facts)
    try:
        found = check_checkpoint(
            _ask(engine, facts, prompts, answer_tokens, spare_tokens, length_flag)
        )
    except UntriedError as error:
        if engine.name == "transformers":
            raise ConfigError(str(error)) from error
        return Fit(engine, facts, note=f"no preflight: {error}")
    settings = engine.settings
    refuse_small_steps(settings, found.prompt_tokens)
    settings = settings.replace(
        max_model_len=found.max_model_len,
        max_num_batched_tokens=settings.max_num_batched_tokens or found.max_num_batched_tokens,
    )
    framing = replace(facts.framing, size_px=found.size_px)
    return Fit(replace(engine, settings=settings), replace(facts, framing=framing), found)


def fit_unit_size(picture_bytes: int, wanted: int = UNIT_SIZE) -> int:
    """Rows of a unit: as many as wanted, if their pictures fit into _UNIT_BYTES."""
    return min(max(_UNIT_BYTES // max(picture_bytes, 1), 1), wanted)


def fill_in_units(engine: EngineSpec, unit_size: int) -> EngineSpec:
    """The engine with so many units in flight as keep it busy, unless its settings say how many."""
    if engine.settings.units_in_flight is not None:
        return engine
    wanted = -(-UNITS_IN_FLIGHT * UNIT_SIZE // unit_size)
    units = min(wanted, _MOST_UNITS_IN_FLIGHT)
    return replace(engine, settings=engine.settings.replace(units_in_flight=units))


def describe_fit(fit: Fit) -> list[str]:
    """Lines for people about what the preflight found."""
    found = fit.preflight
    if found is None:
        return [fit.note] if fit.note else []
    framing, settings = fit.facts.framing, fit.engine.settings
    own = fit.engine.template == "model"
    template = "the checkpoint's own" if own else fit.engine.template
    kind = "squares of" if framing.mode in ("crop", "pad") else "up to"
    pixels = f"{kind} {framing.size_px} x {framing.size_px} pixels"
    left = found.max_model_len - found.prompt_tokens
    kv_mib = found.kv_values * _count_bytes(fit.engine) * found.max_model_len / (1 << 20)
    lines = [
        f"template: {template}; prompts end in {json.dumps(found.tail, ensure_ascii=False)}",
        f"pictures: {pixels}; one takes a prompt to at most {found.prompt_tokens} tokens",
        f"length: {found.max_model_len} of the model's {found.longest} tokens, at least {left} of "
        f"them for the answer; {settings.max_num_batched_tokens} tokens in a step",
        f"stops: {' '.join(found.stops) or 'none'}",
        f"memory: {_describe_weights(fit.engine.model)}; the longest sequence holds "
        f"{kv_mib:,.0f} MiB of key-value cache",
    ]
    if found.switches:
        lines.append(f"thinking: off ({', '.join(found.switches)} in the template)")
    elif found.thinks:
        lines.append("thinking: the template cannot turn it off; thoughts are cut off and counted")
    return lines


def _ask(
    engine: EngineSpec,
    facts: CheckpointFacts,
    prompts: Sequence[str],
    answer_tokens: int,
    spare_tokens: int,
    length_flag: str,
) -> Question:
    folder, _ = locate_checkpoint(engine.model, revision=engine.revision)
    return Question(
        model=str(folder),
        revision=facts.revision,
        template=engine.template,
        prompts=tuple(sorted(set(prompts), key=len)[-_TRIED_PROMPTS:]),
        spare_tokens=spare_tokens,
        size_px=facts.framing.size_px,
        is_fixed=facts.framing.mode in ("crop", "pad"),
        answer_tokens=answer_tokens,
        length=engine.settings.max_model_len,
        options=engine.settings.read_json("mm_processor_kwargs"),
        length_flag=length_flag,
    )


def _count_bytes(engine: EngineSpec) -> int:
    """Bytes of a number in the key-value cache: half precision but on CPUs."""
    return 4 if engine.device == "cpu" else 2


def _describe_weights(model: str) -> str:
    folder = Path(model)
    if not folder.is_dir():
        return f"weights of {storage.base_name(model)}"
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return f"weights {size / (1 << 30):.2f} GiB"
