"""The settings of the demo painter's training. Imports nothing heavy, so that --help answers."""

from pydantic import Field

from s4v_core.config import Config


class PainterStage(Config):
    """Train a small text-to-image model on drawn scenes."""

    output: str
    """Local folder of the run; the pipeline is written to OUTPUT/model."""
    scenes: int = Field(24_000, ge=64)
    """Drawn scenes to learn from."""
    text_steps: int = Field(400, ge=1)
    """Steps in which the text encoder learns from words alone what a prompt says."""
    steps: int = Field(4_000, ge=1)
    """Steps in which the U-Net learns to draw."""
    batch_size: int = Field(48, ge=1)
    """Scenes per step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Highest learning rate of the U-Net."""
    seed: int = Field(0, ge=0)
    """Seed of weights, scenes and order."""
    threads: int = Field(1, ge=1)
    """Threads that compute; more than the machine has free slow it down by far."""
    save_every_steps: int = Field(200, ge=1)
    """Steps between two checkpoints."""
    scored: int = Field(100, ge=0)
    """Pictures that the trained painter draws for the demo captioner to describe."""
