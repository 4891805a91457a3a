"""The models that an OpenAI-compatible endpoint offers."""

import os

from s4v_core.errors import ConfigError

_PATIENCE_S = 30.0
_TRIES = 3


def find_only_model(url: str) -> str:
    """The model of an endpoint that has only one.

    Raises:
        ConfigError: It has none or several, or does not list them.
    """
    import openai  # heavy

    key = os.environ.get("OPENAI_API_KEY", "none")
    client = openai.OpenAI(base_url=url, api_key=key, max_retries=_TRIES, timeout=_PATIENCE_S)
    try:
        names = [model.id for model in client.models.list()]
    except openai.OpenAIError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"model: {url} does not list its models ({problem}); give --model") from (
            error
        )
    if len(names) != 1:
        found = ", ".join(names) or "none"
        raise ConfigError(f"model: {url} has the models {found}; name one of them with --model")
    return names[0]
