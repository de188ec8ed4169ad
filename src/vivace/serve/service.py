"""What the routes work with: the engine, its text, the door before it, and the model's name."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from vivace.core.errors import OverloadedError
from vivace.core.sampling_defaults import SamplingDefaults
from vivace.engine.tokenizer import Tokenizer
from vivace.serve.admission import Admission
from vivace.serve.batch import Batch
from vivace.serve.caller import Caller
from vivace.serve.dashboard.feed import DashboardFeed
from vivace.serve.errors import HttpError
from vivace.serve.generation import Generation, Order
from vivace.serve.logprob_shapes import LogprobShapes
from vivace.serve.metrics import ServerMetrics
from vivace.serve.prompt_encoder import PromptEncoder
from vivace.serve.stories import MAX_PROMPTS, RequestBook, RequestStory
from vivace.serve.tracing import TracedCall, Tracer
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
        tracer: Tracer | None = None,
    ) -> None:
        self.engine = engine
        self.compiler = compiler
        self.tokenizer = tokenizer
        self.admission = admission
        self.metrics = metrics
        self.model_names = tuple(model_names)
        self.request_timeout_s = request_timeout_s
        self.tracer = tracer
        self.encoder = PromptEncoder(tokenizer, engine.info.max_model_len)
        self.logprobs = LogprobShapes(tokenizer)
        self.dashboard = DashboardFeed(self.model_name, engine, admission, metrics)
        self.book = RequestBook()
        self.created = self.now()

    @property
    def model_name(self) -> str:
        return self.model_names[0]

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """For parameters that a request leaves out."""
        return self.engine.info.sampling_defaults

    def check_model(self, name: str | None) -> None:
        """A request may leave the model out. Raises `HttpError` 404 for another one."""
        if name is not None and name not in self.model_names:
            known = ", ".join(self.model_names)
            raise HttpError(
                404, f"there is no model {name!r} here, only {known}", code="model_not_found", param="model"
            )

    def open(self, caller: Caller, order: Order, num_bytes: Sequence[int]) -> Batch:
        """Let a request with so many bytes in each prompt in, or raise `OverloadedError`.

        Of several prompts those that find room now are let in, at least the first; the others follow one by one.
        """
        generations = [self._generation(caller, order, number, size) for number, size in enumerate(num_bytes)]
        story = RequestStory(caller.request_id, caller.key, len(generations), self.now())
        story.prompts += [generation.story for generation in generations[:MAX_PROMPTS]]
        on_end = self._trace(story, TracedCall(caller.path, order.params, caller.trace))
        try:
            generations[0].let_in()
        except OverloadedError as refusal:
            self.book.refuse(story, refusal, self.admission.num_queued)
            on_end(refusal)
            raise
        with suppress(OverloadedError):
            for generation in generations[1:]:
                generation.let_in()
        self.book.add(story)
        return Batch(generations, order.params.n, caller.log, on_end)

    @contextmanager
    def told(self, story: RequestStory, call: TracedCall) -> Iterator[None]:
        """Remember the story, and trace it at the end of the block."""
        self.book.add(story)
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
            if isinstance(raised, OverloadedError) and not story.prompts:
                self.book.refuse(story, raised, self.admission.num_queued)
            raise
        finally:
            self._trace(story, call)(error)

    def _trace(self, story: RequestStory, call: TracedCall) -> Callable[[BaseException | None], None]:
        """What is to be done when the request has ended, with the error that ended it."""
        tracer = self.tracer
        return lambda error: None if tracer is None else tracer.record(story, call, error)

    def _generation(self, caller: Caller, order: Order, number: int, num_bytes: int) -> Generation:
        enter = partial(
            self.admission.enter,
            key=caller.key,
            num_bytes=num_bytes,
            max_tokens=order.params.max_tokens,
            n=order.params.n,
            priority=order.priority,
        )
        metrics = self.metrics.begin(caller.arrival)
        return Generation(self.engine, self.tokenizer, enter, metrics, f"{caller.request_id}-{number}", order)

    @staticmethod
    def now() -> int:
        """Seconds since 1970, for the field `created`."""
        return int(time.time())

    async def close(self) -> None:
        """End the threads and the compiler's process. The engine is closed by who started it."""
        self.encoder.close()
        await self.compiler.close()
