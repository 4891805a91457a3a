"""Prompt texts, exactly as the paper's authors published them."""

CAPTION = "Analyze the image in a comprehensive and detailed manner."
"""The one instruction of the Share-Captioner (ShareGPT4V, tools/share-cap_batch_infer.py)."""
