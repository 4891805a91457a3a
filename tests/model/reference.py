"""A second implementation of LLaVA-1.5, in plain tensor arithmetic on the original names.

Written from the description of the architecture (CLIP ViT up to the layer before the last, a
two-layer projector, Llama) and not from the code under test.
"""

import torch
import torch.nn.functional as F

Weights = dict[str, torch.Tensor]


def reference_logits(
    main: Weights,
    tower: Weights,
    ids: list[int | None],
    pixels: torch.Tensor,
    heads: tuple[int, int],
    rope_factor: float = 1.0,
    keeps_class_token: bool = False,
) -> torch.Tensor:
    """Logits of shape (tokens, vocabulary).

    Args:
        ids: Token ids; None marks the place of the image.
        pixels: Normalised pixels of shape (1, 3, side, side).
        heads: Numbers of attention heads of the tower and of the language model.
        rope_factor: Positions are divided by it (rotary embeddings of linear scaling).
        keeps_class_token: The language model sees the class token in front of the patches.
    """
    features = _tower(tower, pixels, heads[0])
    image = _project(main, features if keeps_class_token else features[1:])
    table = main["model.embed_tokens.weight"]
    rows = [image if token is None else table[token][None] for token in ids]
    return _llama(main, torch.cat(rows), heads[1], rope_factor)


def _tower(weights: Weights, pixels: torch.Tensor, heads: int) -> torch.Tensor:
    w = {name.removeprefix("vision_model."): value for name, value in weights.items()}
    kernel = w["embeddings.patch_embedding.weight"]
    patches = F.conv2d(pixels, kernel, stride=kernel.shape[-1])[0].flatten(1).T
    x = torch.cat([w["embeddings.class_embedding"][None], patches])
    x = _norm(w, "pre_layrnorm", x + w["embeddings.position_embedding.weight"])
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("encoder.layers."))
    for n in range(layers - 1):  # features leave before the last layer
        at = f"encoder.layers.{n}."
        y = _norm(w, at + "layer_norm1", x)
        q, k, v = (_linear(w, f"{at}self_attn.{part}_proj", y) for part in "qkv")
        x = x + _linear(w, at + "self_attn.out_proj", _attention(q, k, v, heads))
        y = _linear(w, at + "mlp.fc1", _norm(w, at + "layer_norm2", x))
        x = x + _linear(w, at + "mlp.fc2", y * torch.sigmoid(1.702 * y))
    return x


def _project(w: Weights, x: torch.Tensor) -> torch.Tensor:
    x = _linear(w, "model.mm_projector.0", x)
    return _linear(w, "model.mm_projector.2", 0.5 * x * (1 + torch.erf(x / 2**0.5)))


def _llama(w: Weights, x: torch.Tensor, heads: int, rope_factor: float) -> torch.Tensor:
    layers = 1 + max(int(name.split(".")[2]) for name in w if name.startswith("model.layers."))
    for n in range(layers):
        at = f"model.layers.{n}."
        y = _rms(x) * w[at + "input_layernorm.weight"]
        q, k, v = (_linear(w, f"{at}self_attn.{part}_proj", y) for part in "qkv")
        q, k = _rotate(q, heads, rope_factor), _rotate(k, heads, rope_factor)
        x = x + _linear(w, at + "self_attn.o_proj", _attention(q, k, v, heads, causal=True))
        y = _rms(x) * w[at + "post_attention_layernorm.weight"]
        gate = _linear(w, at + "mlp.gate_proj", y)
        y = gate * torch.sigmoid(gate) * _linear(w, at + "mlp.up_proj", y)
        x = x + _linear(w, at + "mlp.down_proj", y)
    return _linear(w, "lm_head", _rms(x) * w["model.norm.weight"])


def _attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, causal: bool = False
) -> torch.Tensor:
    width = q.shape[1] // heads
    out = []
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scores = q[:, part] @ k[:, part].T / width**0.5
        if causal:
            scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
        out.append(scores.softmax(dim=-1) @ v[:, part])
    return torch.cat(out, dim=1)


def _rotate(x: torch.Tensor, heads: int, factor: float, theta: float = 10_000.0) -> torch.Tensor:
    tokens, width = x.shape[0], x.shape[1] // heads
    speeds = theta ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(tokens)[:, None] / factor * speeds
    first, second = x.view(tokens, heads, 2, width // 2).unbind(2)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    turned = torch.stack([first * cos - second * sin, second * cos + first * sin], 2)
    return turned.view(tokens, -1)


def _linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, w[name + ".weight"], w.get(name + ".bias"))


def _norm(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-5)


def _rms(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt((x * x).mean(dim=-1, keepdim=True) + 1e-6)
