"""The demo captioner that is part of the package. The card in its folder says how it was made."""

from pathlib import Path

CAPTIONER = Path(__file__).parent / "captioner"
"""Folder of a small LLaVA-1.5 checkpoint that can only caption drawn scenes."""
