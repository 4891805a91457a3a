"""The demo models that are part of the package. The cards in their folders say how they were
made."""

from pathlib import Path

CAPTIONER = Path(__file__).parent / "captioner"
"""Folder of a small LLaVA-1.5 checkpoint that can only caption drawn scenes."""

PAINTER = Path(__file__).parent / "painter"
"""Folder of a small Stable Diffusion that can only draw such scenes, 64 x 64 pixels."""
