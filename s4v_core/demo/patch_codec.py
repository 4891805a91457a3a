"""A linear image codec in the place of a pipeline's VAE: patches on their principal directions.

Scenes are flat shapes, of which a few directions keep everything that can be told; a learnt VAE of
the same size keeps less, and takes most of the training time.
"""

from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput


class PatchCodec(ModelMixin, ConfigMixin):
    """Turns each patch of an image into one latent position, and back.

    Attributes:
        basis: One row per channel: a principal direction divided by its scale.
        back: The same directions times their scale.
        mean: The mean patch.
    """

    @register_to_config
    def __init__(
        self,
        patch: int = 8,
        latent_channels: int = 32,
        sample_size: int = 64,
        scaling_factor: float = 1.0,
        # Pipelines read the patch size from the number of these.
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        assert patch == 2 ** (len(block_out_channels) - 1), "pipelines would find another size"
        length = 3 * patch * patch
        self.basis = torch.nn.Parameter(torch.zeros(latent_channels, length), requires_grad=False)
        self.back = torch.nn.Parameter(torch.zeros(latent_channels, length), requires_grad=False)
        self.mean = torch.nn.Parameter(torch.zeros(length), requires_grad=False)

    def fit(self, images: torch.Tensor) -> None:
        """Find the directions of these images (batch, 3, height, width), values from -1 to 1."""
        patches = self._cut(images).reshape(-1, self.mean.numel())
        mean = patches.mean(0)
        centred = patches - mean
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        channels = self.basis.shape[0]
        deviations = values.flip(0)[:channels].clamp(min=1e-12).sqrt()
        directions = vectors.flip(1)[:, :channels]
        # Half whitened: strong directions stay stronger, and all together have unit variance.
        scale = deviations.sqrt()
        scale = scale * ((deviations / scale) ** 2).mean().sqrt()
        self.mean.data.copy_(mean)
        self.basis.data.copy_((directions / scale).T)
        self.back.data.copy_((directions * scale).T)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Images (batch, 3, height, width) to latents (batch, channels, height, width)."""
        latents = (self._cut(images) - self.mean) @ self.basis.T
        return latents.permute(0, 3, 1, 2)

    def decode(
        self, latents: torch.Tensor, return_dict: bool = True, generator: Any = None
    ) -> DecoderOutput | tuple[torch.Tensor]:
        """Latents back to images; the signature is that of diffusers' autoencoders."""
        side = self.config.patch
        patches = latents.permute(0, 2, 3, 1) @ self.back + self.mean
        batch, height, width, _ = patches.shape
        patches = patches.reshape(batch, height, width, side, side, 3).permute(0, 5, 1, 3, 2, 4)
        images = patches.reshape(batch, 3, height * side, width * side)
        return DecoderOutput(sample=images) if return_dict else (images,)

    def _cut(self, images: torch.Tensor) -> torch.Tensor:
        """Patches (batch, rows, columns, values) of images."""
        side = self.config.patch
        batch, colours, height, width = images.shape
        rows, columns = height // side, width // side
        cut = images.reshape(batch, colours, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1)
        return cut.reshape(batch, rows, columns, -1)
