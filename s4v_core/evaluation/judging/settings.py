"""Which judge grades answers, and how often."""

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError


class JudgeSettings(Config):
    """A model behind an OpenAI-compatible endpoint that grades answers."""

    url: str | None = None
    """Base address of the judge's endpoint (.../v1). Its key comes from OPENAI_API_KEY."""
    model: str | None = None
    """Id of the judge. Name a dated one: grades of different judges do not compare."""
    runs: int = Field(1, ge=1, le=99)
    """Times that the judge grades every answer, to see how far its grades vary."""
    max_concurrent_requests: int = Field(8, ge=1)
    """Requests that are under way at the judge's endpoint at the same time."""
    request_timeout_s: float = Field(600.0, gt=0)
    """Seconds that the answer to one request is waited for before it is sent again."""
    patience_s: float = Field(1800.0, gt=0)
    """Seconds that a request is repeated while the endpoint is down or overloaded; after that the
    job ends, and the same command resumes it."""
    retry_errors: bool = False
    """Ask the judge again about answers that it has refused to grade, or left without a grade."""

    @model_validator(mode="after")
    def _has_both_or_neither(self) -> "JudgeSettings":
        if (self.url is None) != (self.model is None):
            lacking = "judge.url" if self.url is None else "judge.model"
            raise ConfigError(f"{lacking}: found none; a judge needs an address and a model")
        return self
