"""From token ids and pictures to the summed loss: the module that is sharded and called.

One call per micro-batch, and inside it every part is called exactly once, whatever the data are:
sharded parts gather their weights when they are called, and all workers must do so together.
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
"""Labelled places whose logits are held at once: 32,064 x 1,024 in fp32 are 125 MiB."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class LossHead(nn.Linear):
    """The language model's head, and the loss behind it: logits never leave it.

    Only labelled places are projected, chunk by chunk; each chunk's logits are computed again in
    the backward pass. Workers may need different numbers of chunks.
    """

    def forward(self, hidden_RTH: torch.Tensor, labels_RT: torch.Tensor) -> torch.Tensor:
        """Sum of the cross-entropy over all places with a label, in fp32."""
        learnt = labels_RT != IGNORED
        hidden, labels = hidden_RTH[learnt], labels_RT[learnt]
        total = hidden_RTH.float().sum() * 0  # without any label the head still takes part
        for part, target in zip(hidden.split(HEAD_CHUNK), labels.split(HEAD_CHUNK), strict=True):
            total = total + checkpoint(_summed_loss, part, self.weight, target, use_reentrant=False)
        return total


def _summed_loss(hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="sum")


class Step(nn.Module):
    """Owns the model; the root of sharding."""

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

        Samples of a row do not see each other: transformers finds them by the jumps in the
        positions, but only without a mask and without a cache.
        """
        inner = self.model.model
        embedded = inner.language_model.embed_tokens(ids_RT)
        features = self._features(pixels_NSS3).to(embedded.dtype)
        places = ids_RT == self.model.config.image_token_id
        if bool(places.any()):
            embedded = embedded.masked_scatter(places.unsqueeze(-1), features)
        else:
            # The picture of zeros: workers with images wait for the gradients of this one.
            embedded = embedded + features.sum() * 0
        hidden = inner.language_model(
            inputs_embeds=embedded,
            position_ids=positions_RT,
            attention_mask=None,
            use_cache=False,
        ).last_hidden_state
        total: torch.Tensor = self.model.lm_head(hidden, labels_RT)
        return total

    def _features(self, pixels_NSS3: torch.Tensor) -> torch.Tensor:
        """Projected patches of all pictures, without the class token.

        Stops at the block whose output is used; transformers runs all and keeps every state.
        """
        tower: Any = self.model.model.vision_tower
        hidden = tower.pre_layrnorm(tower.embeddings(_normalised(pixels_NSS3)))
        for block in tower.encoder.layers[: self._used_blocks]:
            hidden = block(hidden, attention_mask=None)
        features: torch.Tensor = self.model.model.multi_modal_projector(hidden[:, 1:])
        return features


def _normalised(pixels_NSS3: torch.Tensor) -> torch.Tensor:
    """uint8 RGB -> (N, 3, S, S) as CLIP's processor gives it."""
    mean = torch.tensor(CLIP_MEAN, device=pixels_NSS3.device)
    std = torch.tensor(CLIP_STD, device=pixels_NSS3.device)
    scaled = (pixels_NSS3.float() / 255 - mean) / std
    return scaled.permute(0, 3, 1, 2).contiguous()
