"""The architectures that are tried, by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.architectures.gemma import build_gemma3, build_paligemma
from tests.architectures.glm import build_glm4v
from tests.architectures.idefics import build_idefics3, build_smolvlm
from tests.architectures.internvl import build_internvl3
from tests.architectures.llama import build_llama4
from tests.architectures.llava import (
    build_granite_vision,
    build_joycaption,
    build_llava_1_5,
    build_llava_1_5_untold,
    build_llava_interleave,
    build_llava_next,
    build_llava_onevision,
)
from tests.architectures.mistral import build_mistral3, build_pixtral
from tests.architectures.others import build_cohere2_vision, build_lfm2_vl
from tests.architectures.qwen import (
    build_qwen2_5_vl,
    build_qwen2_vl,
    build_qwen3_vl,
    build_qwen3_vl_switched,
    build_qwen3_vl_thinking,
    build_second_end,
    build_turn_end,
)


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        build: Saves a small random checkpoint of it to a folder.
        template: What a pass is to take: the checkpoint's own template ("model") or Vicuna's.
        thinks: Whether its template begins every answer with a thought that no variable switches
            off, so that the answer is cut out of what the model writes.
        options: Variables of the template that a pass is to set, here to switch thoughts off.
        needs: Package that its processor needs besides those of this project.
    """

    build: Callable[[Path], None]
    template: str = "model"
    thinks: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str | None = None


ARCHITECTURES = {
    "qwen2_vl": Architecture(build_qwen2_vl),
    "qwen2_5_vl": Architecture(build_qwen2_5_vl),
    "qwen3_vl": Architecture(build_qwen3_vl),
    "qwen3_vl_thinking": Architecture(build_qwen3_vl_thinking, thinks=True),
    "qwen3_vl_switched": Architecture(build_qwen3_vl_switched, options={"enable_thinking": False}),
    "internvl3": Architecture(build_internvl3),
    "gemma3": Architecture(build_gemma3),
    "paligemma": Architecture(build_paligemma),
    "llava_1_5": Architecture(build_llava_1_5, template="vicuna_v1"),
    "llava_1_5_untold": Architecture(build_llava_1_5_untold, template="vicuna_v1"),
    "llava_next": Architecture(build_llava_next),
    "llava_onevision": Architecture(build_llava_onevision),
    "llava_interleave": Architecture(build_llava_interleave),
    "joycaption": Architecture(build_joycaption),
    "granite_vision": Architecture(build_granite_vision),
    "pixtral": Architecture(build_pixtral),
    "mistral3": Architecture(build_mistral3),
    "idefics3": Architecture(build_idefics3),
    "smolvlm": Architecture(build_smolvlm, needs="num2words"),
    "glm4v": Architecture(build_glm4v, thinks=True),
    "llama4": Architecture(build_llama4),
    "cohere2_vision": Architecture(build_cohere2_vision),
    "lfm2_vl": Architecture(build_lfm2_vl),
    "second_end": Architecture(build_second_end),
    "turn_end": Architecture(build_turn_end),
}
