"""What the engine has been given, and whether one more can start there soon."""

from __future__ import annotations

from vivace.serve.admission.demand import Demand
from vivace.serve.admission.limits import EngineCapacity
from vivace.serve.admission.turn_delays import Obstacle


class EngineRoom:
    """Rows, blocks and prompt work of the requests that had their turn.

    Blocks are counted as they will probably be needed, not in the worst case: a request without `max_tokens` would
    otherwise have the whole engine for itself. Where the guess was too low, `grow` corrects it token by token.
    """

    def __init__(self, engine: EngineCapacity) -> None:
        self._engine = engine
        self.held = Demand()
        self.unstarted = Demand()  # those of `held` whose first token has not come

    def obstacle(self, demand: Demand, lead_tokens: float, num_available_blocks: int) -> Obstacle | None:
        """What the demand lacks to start soon; None where it can, and always where nothing else is held.

        `lead_tokens` is how much prompt work may lie ready, `num_available_blocks` what the engine says it has.
        """
        if not self.held.num_requests:
            return None
        if self.held.num_sequences + demand.num_sequences > self._engine.max_num_seqs:
            return "rows"
        if (
            self.held.blocks + demand.blocks > self._engine.num_kv_blocks
            or self.unstarted.prompt_blocks + demand.prompt_blocks > num_available_blocks
        ):
            return "blocks"
        ready = self.unstarted.computed_tokens
        if ready and ready + demand.computed_tokens > max(lead_tokens, self._engine.max_num_batched_tokens):
            return "prompts"
        return None

    def share_at_once(self, demand: Demand) -> float:
        """The share (0 to 1) of a queue's demand that finds rows and blocks without anyone ending."""
        rows = self._engine.max_num_seqs - self.held.num_sequences
        blocks = self._engine.num_kv_blocks - self.held.blocks
        share = min(
            rows / demand.num_sequences if demand.num_sequences > 0 else 1.0,
            blocks / demand.blocks if demand.blocks > 0 else 1.0,
        )
        return min(max(share, 0.0), 1.0)

    def take(self, demand: Demand) -> None:
        self.held.add(demand)
        self.unstarted.add(demand)

    def start(self, demand: Demand, num_cached_tokens: int) -> None:
        """The first token came; blocks of the prompt that others share are not counted twice."""
        self.unstarted.remove(demand)
        self.held.remove(demand)
        demand.computed_tokens = max(demand.num_prompt_tokens - num_cached_tokens, 0)
        prompt_blocks = demand.computed_tokens / self._engine.block_size
        demand.blocks += prompt_blocks - demand.prompt_blocks
        demand.prompt_blocks = prompt_blocks
        self.held.add(demand)

    def grow(self, demand: Demand, num_blocks: float) -> None:
        demand.blocks += num_blocks
        self.held.blocks += num_blocks

    def give_back(self, demand: Demand, *, started: bool) -> None:
        self.held.remove(demand)
        if not started:
            self.unstarted.remove(demand)
        if not round(self.held.num_requests):
            self.held = Demand()
        if not round(self.unstarted.num_requests):
            self.unstarted = Demand()
