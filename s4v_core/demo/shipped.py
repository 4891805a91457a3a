"""The demo captioner that ships in the package. Its card beside it says how it was made."""

from pathlib import Path

CAPTIONER = Path(__file__).parent / "captioner"
"""A LLaVA-1.5 checkpoint of the demo's own: it knows drawn scenes and nothing else."""
