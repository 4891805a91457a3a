"""The models as one request may use them: which its key allows, for how long, and what is noted."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ray.serve.handle import DeploymentHandle

from s4v_core.engines.requests import Generation, Request
from serve.api.keep_alive import COLD_RETRY_S
from serve.api.routes import find_rules
from serve.engines.client import ReplicaClient
from serve.engines.models import Model
from serve.front.guard import find_current_key
from serve.front.logs import find_log_place, open_logs, write_texts
from serve.front.metrics import ServeMetrics, build_metrics
from serve.front.refusals import Refusal
from serve.settings import Limits, ServeConfig


class ModelAccess:
    """The parts that the routes of an ingress replica have in common."""

    app: Any
    """The FastAPI app; Serve sets it."""

    metrics: ServeMetrics
    """The metrics of this replica."""

    def __init__(
        self, config: ServeConfig, models: tuple[Model, ...], handles: tuple[DeploymentHandle, ...]
    ) -> None:
        self._config = self._deployed = config
        self._clients = {
            served.config.id: ReplicaClient(served, handle)
            for model, handle in zip(models, handles, strict=True)
            for served in model.list_served()
        }
        self.metrics = build_metrics()
        open_logs(*find_log_place(config.log_folder))

    @property
    def limits(self) -> Limits:
        """The limits that hold now."""
        return self._config.limits

    def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Take other numbers for guard and limits. Serve calls this in every replica when only
        `user_config` of the file has changed; no replica is replaced.

        Raises:
            ConfigError: They cannot be used.
        """
        # From the deployed values each time, so that a number that is taken out goes back to them.
        self._config = self._deployed.apply_changes(user_config)
        find_rules(self.app).config = self._config.guard

    def list_names(self) -> list[str]:
        """List the models that the key may use."""
        key = find_current_key()
        return [name for name in self._clients if key.allows(name)]

    def find_client(self, model: str | None) -> ReplicaClient:
        """Find a model by its id, or the first one, among those that the key may use.

        Raises:
            Refusal: 404, there is none. A key does not learn of models that it may not use.
        """
        for name in self.list_names():
            if model in (None, name):
                return self._clients[name]
        message = "There is no such model; GET /v1/models lists those that are served."
        raise Refusal(404, "model_not_found", message, param="model")

    @asynccontextmanager
    async def limit_time(self, client: ReplicaClient) -> AsyncIterator[None]:
        """Limit the time of an answer, with more of it where an engine may have to start first.

        Raises:
            Refusal: 504, the answer took too long; 503, the engine is still starting.
        """
        limits, may_be_cold = self._config.limits, client.may_be_cold()
        limit_s = limits.timeout_s + (limits.engine_start_s if may_be_cold else 0.0)
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError:
            if may_be_cold and client.may_be_cold():
                message = "The engine of this model is still starting; try again later."
                raise Refusal(503, "engine_starting", message, COLD_RETRY_S) from None
            raise Refusal(504, "timeout", "The answer took too long.") from None

    def note_answer(self, model: Model, request: Request, answer: Generation) -> None:
        """Count the tokens of an answer, and write its texts to their log if it is on."""
        name = model.config.id
        self.metrics.count_tokens(name, answer.prompt_tokens, answer.output_tokens)
        if self._config.log_texts:
            key = find_current_key().name
            write_texts(request.key, key, name, request.prompt, answer.text)
