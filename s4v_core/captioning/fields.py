"""The fields of a pass: texts that every image gets, each with its own question and rules."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from s4v_core.captioning.finishing import Finish
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.prompts import Prompt
from s4v_core.captioning.schema_gate import SchemaGate
from s4v_core.engines.ladder import Judge, Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.records.captions import MAIN_FIELD

_AS_IT_IS = Finish()


@dataclass(frozen=True, slots=True)
class CaptionField:
    """One text of an image. Small and picklable.

    Attributes:
        name: Its column.
        prompts: Each image gets one of them, chosen by its id.
        sampling: Of the first attempt.
        samplings: Of all attempts in turn.
        gate: Rules about its texts; a schema takes their place.
        schema: JSON schema that its answer must follow, as JSON text.
        prefill: Start of its answer, which the model continues.
        finish: What is done to the answer that passed.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sampling: SamplingConfig
    samplings: tuple[SamplingConfig, ...]
    gate: Gate
    schema: str | None = None
    prefill: str = ""
    finish: Finish = _AS_IT_IS

    @property
    def judge(self) -> Judge:
        return SchemaGate(self.schema) if self.schema else self.gate

    @property
    def columns(self) -> set[str]:
        """Names in braces in its prompts: columns of the input, or earlier fields."""
        return {name for prompt in self.prompts for name in prompt.columns}

    def describe(self) -> dict[str, Any]:
        """The field in the settings of a plan, which the columns of the rows follow from."""
        return {
            "name": self.name,
            "prompts": [asdict(prompt) for prompt in self.prompts],
            "sampling": self.sampling.model_dump(),
            "gate": self.gate.model_dump(),
            "schema": json.loads(self.schema) if self.schema else None,
            "prefill": self.prefill,
            "prepend": self.finish.prepend,
            "append": self.finish.append,
            "cut_prefix_words": list(self.finish.cut_prefix_words),
        }


def build_field(
    name: str,
    prompts: tuple[Prompt, ...],
    sampling: SamplingConfig,
    gate: Gate,
    ladder: Ladder,
    *,
    schema: Mapping[str, Any] | None = None,
    prefill: str = "",
    finish: Finish = _AS_IT_IS,
) -> CaptionField:
    """A field whose attempts follow from its first sampling and the ladder of the job."""
    retries = gate.enabled or schema is not None
    return CaptionField(
        name=name,
        prompts=prompts,
        sampling=sampling,
        samplings=ladder.samplings(sampling) if retries else (sampling,),
        gate=gate,
        schema=json.dumps(schema) if schema is not None else None,
        prefill=prefill,
        finish=finish,
    )


def find_main(fields: Sequence[CaptionField]) -> int:
    """Place of the field that is the image's caption: the one of that name, or the first."""
    names = [field.name for field in fields]
    return names.index(MAIN_FIELD) if MAIN_FIELD in names else 0


def list_columns(fields: Sequence[CaptionField]) -> set[str]:
    """Columns of the input that the prompts need."""
    earlier: set[str] = set()
    needed: set[str] = set()
    for field in fields:
        needed |= field.columns - earlier
        earlier.add(field.name)
    return needed
