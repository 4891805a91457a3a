"""Names that the installed vLLM and transformers know, read from their source files.

Importing them takes many seconds, and vLLM wants its device; the driver and `--help` do without.
Where a file is not as expected, nothing is known: then the engine itself decides as it starts.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib import util
from pathlib import Path

_ENGINE_ARGUMENTS = "engine/arg_utils.py"
_KV_TYPES = ("config/cache.py", "CacheDType")
_QUANTIZATIONS = ("model_executor/layers/quantization/__init__.py", "QuantizationMethods")
_CONFIGURATIONS = "transformers_utils/config.py"
_TRANSFORMERS_MODELS = ("models/auto/auto_mappings.py", "models/auto/configuration_auto.py")
_MULTIMODAL_MODELS = ("model_executor/models/registry.py", "_MULTIMODAL_MODELS")


@cache
def list_engine_arguments() -> frozenset[str]:
    """Names of the arguments of vllm.AsyncEngineArgs."""
    return frozenset(
        line.target.id
        for node in _parse(_ENGINE_ARGUMENTS)
        if isinstance(node, ast.ClassDef) and node.name in ("EngineArgs", "AsyncEngineArgs")
        for line in node.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    )


@cache
def list_kv_cache_types() -> frozenset[str]:
    """Number formats of the key-value cache."""
    return frozenset(_list_constants(_find_value(*_KV_TYPES)))


@cache
def list_quantizations() -> frozenset[str]:
    """Methods of quantization that vLLM itself loads or makes."""
    return frozenset(_list_constants(_find_value(*_QUANTIZATIONS)))


@cache
def list_model_types() -> frozenset[str]:
    """Values of `model_type` that have a class in transformers, or one of vLLM's own; among them
    are other words of the files that list them. Empty if transformers cannot be read."""
    lists = [node for path in _TRANSFORMERS_MODELS for node in _parse(path, "transformers")]
    own = _parse(_CONFIGURATIONS) if lists else []
    calls = [call for node in own for call in ast.walk(node) if isinstance(call, ast.Call)]
    names = {keyword.arg for call in calls for keyword in call.keywords if keyword.arg}
    return frozenset(names.union(*map(_list_constants, [*lists, *own])))


@cache
def list_multimodal_architectures() -> frozenset[str]:
    """Names in `architectures` of a config.json that vLLM serves with images, audio or video."""
    found = _find_value(*_MULTIMODAL_MODELS)
    if not isinstance(found, ast.Dict):
        return frozenset()
    return frozenset(text for key in found.keys for text in _list_constants(key))


def _find_value(path: str, name: str) -> ast.expr | None:
    """The expression that a module assigns to a name."""
    for node in _parse(path):
        targets = node.targets if isinstance(node, ast.Assign) else []
        targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value  # type: ignore[attr-defined, no-any-return]
    return None


def _parse(path: str, package: str = "vllm") -> list[ast.stmt]:
    spec = util.find_spec(package)  # finds the package and does not import it
    for folder in (spec and spec.submodule_search_locations) or ():
        file = Path(folder) / path
        if file.is_file():
            return ast.parse(file.read_text()).body
    return []


def _list_constants(value: ast.AST | None) -> Iterator[str]:
    """All texts in an expression."""
    nodes = ast.walk(value) if value is not None else ()
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
