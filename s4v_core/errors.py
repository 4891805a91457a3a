"""All errors of this project.

Each error survives pickling, because Ray carries it between processes: `args` are exactly the
arguments of `__init__`, and `__str__` builds the sentence.
"""


class S4VError(Exception):
    """Root of the errors of this project."""


class ConfigError(S4VError):
    """A setting, or a combination of settings, is not allowed: `ConfigError(sentence)`."""


class InputError(S4VError):
    """An input cannot be used at all. A single bad image is never an error: it becomes a row."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem)
        self.uri, self.problem = uri, problem

    def __str__(self) -> str:
        return f"{self.uri}: {self.problem}"


class ChangedInputError(InputError):
    """An input is no longer the one that a run was begun with."""


class SchemaError(S4VError):
    """Rows do not have the columns of their contract."""

    def __init__(self, uri: str, expected: str, found: str) -> None:
        super().__init__(uri, expected, found)
        self.uri, self.expected, self.found = uri, expected, found

    def __str__(self) -> str:
        return f"{self.uri}: expected {self.expected}, found {self.found}"


class StorageError(S4VError):
    """A store refused or failed a request."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem)
        self.uri, self.problem = uri, problem

    def __str__(self) -> str:
        return f"{self.uri}: {self.problem}"


class EngineError(S4VError):
    """An engine cannot start, or died."""

    def __init__(self, engine: str, problem: str) -> None:
        super().__init__(engine, problem)
        self.engine, self.problem = engine, problem

    def __str__(self) -> str:
        return f"engine {self.engine}: {self.problem}"


class TrainingError(S4VError):
    """A training run cannot continue."""

    def __init__(self, step: int, problem: str) -> None:
        super().__init__(step, problem)
        self.step, self.problem = step, problem

    def __str__(self) -> str:
        return f"step {self.step}: {self.problem}"
