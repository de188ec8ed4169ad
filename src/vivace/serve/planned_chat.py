"""A conversation on its way to the engine: rendered, with the constraint of its tools and formats."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from vivace.core.errors import EngineError
from vivace.core.sampling import SamplingParams
from vivace.serve.generation import Prepared
from vivace.serve.prompt_encoder import Chat
from vivace.serve.reasoning_count import ReasoningCount
from vivace.serve.service import Service
from vivace.serve.tools.plan import ChatPlan


class PlannedChat:
    """`prepare` is what a `Generation` starts with; afterwards `plan` says how the answer is read."""

    def __init__(self, service: Service, chat: Chat, params: SamplingParams) -> None:
        self._service = service
        self._chat = chat
        self._params = params
        self._plan: ChatPlan | None = None

    @property
    def plan(self) -> ChatPlan:
        if self._plan is None:
            raise EngineError("a chat was answered before it was planned")
        return self._plan

    async def prepare(self) -> Prepared:
        """Raises `RequestError` and `TemplateError`."""
        plan = await self._service.encoder.plan_chat(self._chat)
        plan = await plan.checked(self._service.compiler.check)
        self._plan = plan
        params = replace(
            self._params,
            structured_outputs=plan.structured_outputs,
            skip_special_tokens=self._params.skip_special_tokens and plan.skip_special_tokens,
        )
        count = partial(ReasoningCount, opened=plan.opened) if plan.reasons else None
        return Prepared(plan.prompt_ids, params, count)
