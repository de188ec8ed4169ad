"""What the routes work with: the engine, its text, the door before it, and the model's name."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack

from vivace.engine.tokenizer import Tokenizer
from vivace.serve.admission import Admission
from vivace.serve.batch import Batch
from vivace.serve.caller import Caller
from vivace.serve.errors import HttpError
from vivace.serve.generation import Generation, Order
from vivace.serve.logprob_shapes import LogprobShapes
from vivace.serve.metrics import ServerMetrics
from vivace.serve.prompt_encoder import PromptEncoder
from vivace.worker.compiler import CompilerClient
from vivace.worker.supervisor import EngineClient


class Service:
    """One model, served. `model_names`: the first one is how it introduces itself, each one finds it."""

    def __init__(
        self,
        engine: EngineClient,
        compiler: CompilerClient,
        tokenizer: Tokenizer | None,
        admission: Admission,
        metrics: ServerMetrics,
        model_names: Sequence[str],
        *,
        request_timeout_s: float | None = None,
    ) -> None:
        self.engine = engine
        self.compiler = compiler
        self.tokenizer = tokenizer
        self.admission = admission
        self.metrics = metrics
        self.model_names = tuple(model_names)
        self.request_timeout_s = request_timeout_s
        self.encoder = PromptEncoder(tokenizer, engine.info.max_model_len)
        self.logprobs = LogprobShapes(tokenizer)
        self.created = self.now()

    @property
    def model_name(self) -> str:
        return self.model_names[0]

    def check_model(self, name: str | None) -> None:
        """A request may leave the model out. Raises `HttpError` 404 for another one."""
        if name is not None and name not in self.model_names:
            known = ", ".join(self.model_names)
            raise HttpError(
                404, f"there is no model {name!r} here, only {known}", code="model_not_found", param="model"
            )

    def open(self, caller: Caller, order: Order, num_bytes: Sequence[int]) -> Batch:
        """Let a request with so many bytes in each prompt in. Raises `OverloadedError` where any finds no room."""
        params = order.params
        with ExitStack() as tickets:
            entered = [
                tickets.enter_context(
                    self.admission.enter(
                        key=caller.key,
                        num_bytes=size,
                        max_tokens=params.max_tokens,
                        n=params.n,
                        priority=order.priority,
                    )
                )
                for size in num_bytes
            ]
            tickets.pop_all()
        generations = [
            Generation(
                self.engine,
                self.tokenizer,
                ticket,
                self.metrics.begin(caller.arrival),
                f"{caller.request_id}-{number}",
                order,
            )
            for number, ticket in enumerate(entered)
        ]
        return Batch(generations, params.n)

    @staticmethod
    def now() -> int:
        """Seconds since 1970, for the field `created`."""
        return int(time.time())

    async def close(self) -> None:
        """End the threads and the compiler's process. The engine is closed by who started it."""
        self.encoder.close()
        await self.compiler.close()
