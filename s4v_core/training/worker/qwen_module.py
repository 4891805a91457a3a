"""The loss of a Qwen2.5-VL: patches of images in their own sizes, and positions in time, height and
width."""

from typing import Any

import torch

from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.worker.attention import build_arguments, set_kernel, shape_rows
from s4v_core.training.worker.loss_module import LossHead, LossModule


class QwenLossModule(LossModule):
    """Owns a Qwen2.5-VL and computes its loss; see `LossModule`."""

    def __init__(self, model: Any, kernel: str = "sdpa") -> None:
        torch.nn.Module.__init__(self)
        assert not model.config.tie_word_embeddings, "sharding needs embedding and head apart"
        model.lm_head.__class__ = LossHead
        set_kernel(model, kernel)
        self.model = model
        self._kernel = kernel

    def _find_features(self, batch: MicroBatch) -> torch.Tensor:
        """One row per image token of the micro-batch."""
        assert batch.patches_PD is not None, "the collator of this family makes patches"
        tower: Any = self.model.model.visual
        patches = batch.patches_PD.to(next(tower.parameters()).dtype)
        features: torch.Tensor = tower(patches, grid_thw=batch.grids_N3).pooler_output
        return features

    def _run_layers(self, embedded_RTH: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        assert batch.rope_3RT is not None, "the collator of this family makes positions"
        language: Any = self.model.model.language_model
        hidden = shape_rows(embedded_RTH, self._kernel)
        positions = shape_rows(batch.positions_RT, self._kernel)
        places = torch.stack([shape_rows(part, self._kernel) for part in batch.rope_3RT])
        rotation = language.rotary_emb(hidden, position_ids=places)
        arguments = build_arguments(batch, self._kernel)
        for layer in language.layers:
            hidden = layer(
                hidden, position_ids=positions, position_embeddings=rotation, **arguments
            )
        return language.norm(hidden)
