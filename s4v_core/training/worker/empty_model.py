"""The model of a run before it has values, with the parameters that learn: from here training and
`--plan` go separate ways, so that they count the same."""

from typing import Any

import torch
import transformers

from s4v_core.model.learning import set_learning
from s4v_core.training.lora import Lora
from s4v_core.training.stage import Learning
from s4v_core.training.worker.adapters import add_adapters


def build_empty_model(class_name: str, config: Any) -> Any:
    """Build a model in fp32 on the meta device, where it takes no memory.

    Args:
        class_name: transformers' class of the model.
    """
    with torch.device("meta"):
        model = getattr(transformers, class_name)(config)
    return model.float().train()


def choose_learning(model: Any, learning: Learning, lora: Lora | None) -> None:
    """Choose the parameters that learn; adapters are added if the job has them."""
    set_learning(
        model,
        learning.vision_from,
        learning.vision_stem,
        learning.projector,
        learning.language,
    )
    if lora is not None and lora.rank:
        add_adapters(model, lora, learning)
