"""A draft learns the target's distribution, and is measured by how much of it the target would accept."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from training.model import Llama


class DistillationLoss:
    """Cross entropy of the student against the teacher's distribution at every position (Hinton et al., 2015).

    The acceptance of speculative decoding is the overlap of the two distributions (Leviathan et al., 2023), so the
    text's own next token teaches a draft less than what the target thinks of it.
    """

    def __init__(self, student: Llama, teacher: Llama) -> None:
        self.student, self.teacher = student, teacher
        for parameter in teacher.parameters():
            parameter.requires_grad_(False)

    def of(self, tokens_BT: Tensor) -> Tensor:
        """Mean nats a position; at least the teacher's entropy."""
        targets = torch.softmax(self.teacher(tokens_BT[:, :-1]).float(), dim=-1)
        logits = self.student(tokens_BT[:, :-1]).float()
        return cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))


@torch.no_grad()
def inherit_embeddings(student: Llama, teacher: Llama) -> None:
    """Starts the student from the teacher's table, in its principal directions and as small as a new one: what words
    have to do with each other need not be learnt again."""
    table_VC = teacher.model.embed_tokens.weight
    _, _, directions = torch.linalg.svd(table_VC, full_matrices=False)
    table = student.model.embed_tokens.weight
    projected = table_VC @ directions[: student.shape.hidden_size].T
    table.copy_(projected * (table.std().cpu() / projected.std()))


@dataclass(frozen=True)
class Acceptance:
    """Of a draft, one token ahead on real text: the share of its samples that the target keeps, and of its best
    guesses that are the target's own."""

    num_positions: int
    sampled: float
    greedy: float

    def expected_tokens(self, num_guesses: int) -> float:
        """Tokens a step yields when so many are guessed, were each accepted as often as the first (sampling)."""
        return sum(self.sampled**power for power in range(num_guesses + 1))


@torch.no_grad()
def measure_acceptance(draft: Llama, target: Llama, windows: Iterable[Tensor]) -> Acceptance:
    """Sampling keeps sum_v min(p_v, q_v) of a draft's tokens (Leviathan et al., 2023, arXiv:2211.17192)."""
    positions, overlap, agreement = 0, 0.0, 0
    for rows in windows:
        p, q = (torch.softmax(model(rows[:, :-1]).float(), dim=-1) for model in (target, draft))
        overlap += torch.minimum(p, q).sum().item()
        agreement += int((p.argmax(dim=-1) == q.argmax(dim=-1)).sum())
        positions += rows[:, 1:].numel()
    return Acceptance(positions, overlap / positions, agreement / positions)
