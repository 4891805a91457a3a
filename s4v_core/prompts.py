"""Prompt texts, word for word where the paper's authors published them."""

CAPTION = "Analyze the image in a comprehensive and detailed manner."
"""The unified instruction of the Share-Captioner (ShareGPT4V, tools/share-cap_batch_infer.py)."""
