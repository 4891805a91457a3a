"""JSON files that a job names: its fields, and schemas of answers."""

import json
from typing import Any

from s4v_core import storage
from s4v_core.errors import ConfigError


def read_json_file(uri: str, name: str) -> Any:
    """The value in a JSON file.

    Args:
        name: Setting that names the file, for messages.

    Raises:
        ConfigError: The file cannot be read, or holds no JSON.
    """
    try:
        return json.loads(storage.read(uri).decode())
    except (FileNotFoundError, UnicodeDecodeError):
        raise ConfigError(f"{name}: {uri} is no readable text file") from None
    except ValueError as error:
        raise ConfigError(f"{name}: {uri} is no JSON: {error}") from None
