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

from s4v_core.model.learning import count_used_blocks
from s4v_core.training.data.tokens import IGNORED

HEAD_CHUNK = 1024
"""Number of labelled positions whose logits are held at a time: 32,064 x 1,024 in fp32 are
125 MiB."""

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LossHead(nn.Linear):
    """The language model's head together with the loss, so that logits never leave it.

    Only labelled positions are projected, chunk by chunk, and each chunk's logits are computed
    again in the backward pass. Workers may need different numbers of chunks.
    """

    def forward(self, hidden_RTH: torch.Tensor, labels_RT: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropy over all labelled positions, in fp32."""
        learnt = labels_RT != IGNORED
        hidden, labels = hidden_RTH[learnt], labels_RT[learnt]
        total = hidden_RTH.float().sum() * 0  # keeps the head in the graph if nothing is labelled
        for part, target in zip(hidden.split(HEAD_CHUNK), labels.split(HEAD_CHUNK), strict=True):
            total = total + checkpoint(_sum_loss, part, self.weight, target, use_reentrant=False)
        return total


def _sum_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


class LossModule(nn.Module):
    """Owns the model and computes its loss; it is the root of sharding."""

    def __init__(self, model: LlavaForConditionalGeneration) -> None:
        super().__init__()
        assert not model.config.tie_word_embeddings, "sharding needs embedding and head apart"
        assert model.config.vision_feature_select_strategy == "default", "the class token is cut"
        model.lm_head.__class__ = LossHead
        self.model = model
        self._used_blocks = count_used_blocks(model)

    def forward(
        self,
        ids_RT: torch.Tensor,
        positions_RT: torch.Tensor,
        labels_RT: torch.Tensor,
        pixels_NSS3: torch.Tensor,
    ) -> torch.Tensor:
        """The summed loss of a micro-batch.

        Samples that share a row do not attend to each other: transformers separates them where the
        positions jump, but only without a mask and without a cache.
        """
        inner = self.model.model
        embedded = inner.language_model.embed_tokens(ids_RT)
        features = self._compute_features(pixels_NSS3).to(embedded.dtype)
        is_image = ids_RT == self.model.config.image_token_id
        if bool(is_image.any()):
            embedded = embedded.masked_scatter(is_image.unsqueeze(-1), features)
        else:
            # The features are of the image of zeros. They stay in the graph, because workers with
            # images wait for the gradients of this one.
            embedded = embedded + features.sum() * 0
        hidden = inner.language_model(
            inputs_embeds=embedded,
            position_ids=positions_RT,
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state
        total: torch.Tensor = self.model.lm_head(hidden, labels_RT)
        return total

    def _compute_features(self, pixels_NSS3: torch.Tensor) -> torch.Tensor:
        """Projected patches of all images, without the class token.

        Stops at the block whose output is used; transformers runs all blocks and keeps every
        hidden state.
        """
        tower: Any = self.model.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(_normalise(pixels_NSS3)))
        for block in tower.encoder.layers[: self._used_blocks]:
            hidden = block(hidden, attention_mask=None)
        features: torch.Tensor = self.model.model.multi_modal_projector(hidden[:, 1:])
        return features


def _normalise(pixels_NSS3: torch.Tensor) -> torch.Tensor:
    """Turn uint8 RGB into (N, 3, S, S) floats, like CLIP's processor."""
    mean = torch.tensor(_CLIP_MEAN, device=pixels_NSS3.device)
    std = torch.tensor(_CLIP_STD, device=pixels_NSS3.device)
    scaled = (pixels_NSS3.float() / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous()
