"""The module that is sharded and trained: from token ids and pixels to the summed loss.

It is called once per micro-batch, and each call runs every part exactly once, whatever the data
are: a sharded part gathers its weights when it is called, and all workers must do so together.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import LlavaForConditionalGeneration

from s4v_core.model.normalisation import CLIP_NORMALISATION, Normalisation
from s4v_core.model.parts import count_used_blocks
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.worker.attention import build_arguments, set_kernel, shape_rows

HEAD_CHUNK = 1024
"""Number of labelled positions whose logits are held at a time: 32,064 x 1,024 in fp32 are
125 MiB."""


class LossHead(nn.Linear):
    """The language model's head together with the loss, so that logits never leave it.

    Only labelled positions are projected, chunk by chunk, and each chunk's logits are computed
    again in the backward pass. Workers may need different numbers of chunks.
    """

    def forward(
        self, hidden_RTH: torch.Tensor, labels_RT: torch.Tensor, learnt_places_L: torch.Tensor
    ) -> torch.Tensor:
        """Sum of the cross-entropy over all labelled positions, in fp32.

        Args:
            learnt_places_L: The labelled positions, counted over all rows one behind the other.
        """
        hidden = hidden_RTH.flatten(0, 1).index_select(0, learnt_places_L)
        labels = labels_RT.flatten().index_select(0, learnt_places_L)
        # Where nothing is labelled, there is one chunk of nothing: it keeps the head in the graph.
        chunks = zip(hidden.split(HEAD_CHUNK), labels.split(HEAD_CHUNK), strict=True)
        losses = [
            checkpoint(_sum_loss, part, self.weight, target, use_reentrant=False)
            for part, target in chunks
        ]
        return torch.stack(losses).sum()


def _sum_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


class LossModule(nn.Module):
    """Owns the model and computes its loss; it is the root of sharding.

    Args:
        normalisation: Mean and standard deviation by which the model's processor normalises.
        kernel: Attention kernel of the language model: sdpa, flex or flash.
    """

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        normalisation: Normalisation = CLIP_NORMALISATION,
        kernel: str = "sdpa",
    ) -> None:
        super().__init__()
        assert not model.config.tie_word_embeddings, "sharding needs embedding and head apart"
        assert model.config.vision_feature_select_strategy == "default", "the class token is cut"
        model.lm_head.__class__ = LossHead
        set_kernel(model, kernel)
        self.model = model
        self._normalisation, self._kernel = normalisation, kernel
        self._used_blocks = count_used_blocks(model)

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The summed loss of a micro-batch, which lies on the model's device."""
        embedded = self.model.model.language_model.embed_tokens(batch.ids_RT)
        features = self._find_features(batch).to(embedded.dtype)
        if batch.images:
            flat = embedded.flatten(0, 1)
            flat = flat.index_copy(0, batch.image_places_P, features)
            embedded = flat.view_as(embedded)
        else:
            # The features are of the image of zeros. They stay in the graph, because workers with
            # images wait for the gradients of this one.
            embedded = embedded + features.sum() * 0
        hidden = self._run_layers(embedded, batch)
        total: torch.Tensor = self.model.lm_head(hidden, batch.labels_RT, batch.learnt_places_L)
        return total

    def _run_layers(self, embedded_RTH: torch.Tensor, batch: MicroBatch) -> torch.Tensor:
        """The language model's last hidden states, without its own search for packed rows: that
        waits for the device, and makes a mask for every row that ends in padding."""
        language: Any = self.model.model.language_model
        hidden = shape_rows(embedded_RTH, self._kernel)
        positions = shape_rows(batch.positions_RT, self._kernel)
        rotation = language.rotary_emb(hidden, position_ids=positions)
        arguments = build_arguments(batch, self._kernel)
        for layer in language.layers:
            hidden = layer(
                hidden, position_ids=positions, position_embeddings=rotation, **arguments
            )
        return language.norm(hidden)

    def _find_features(self, batch: MicroBatch) -> torch.Tensor:
        """Projected patches of all images, one row per image token, without the class tokens.

        Stops at the block whose output is used; transformers runs all blocks and keeps every
        hidden state.
        """
        tower: Any = self.model.model.vision_tower
        pixels = normalise_pixels(batch.pixels_NSS3, self._normalisation)
        hidden = tower.pre_layrnorm(tower.embeddings(pixels))
        for block in tower.encoder.layers[: self._used_blocks]:
            hidden = block(hidden, attention_mask=None)
        features: torch.Tensor = self.model.model.multi_modal_projector(hidden[:, 1:])
        return features.flatten(0, 1)


def normalise_pixels(pixels_NSS3: torch.Tensor, normalisation: Normalisation) -> torch.Tensor:
    """Turn uint8 RGB into (N, 3, S, S) floats, as the model's processor does."""
    pixels = pixels_NSS3.permute(0, 3, 1, 2).float() / 255
    # One number after the other: a tensor of them would be copied to the device each time.
    parts = zip(pixels.unbind(1), normalisation.mean, normalisation.std, strict=True)
    return torch.stack([(part - mean) / std for part, mean, std in parts], dim=1)
