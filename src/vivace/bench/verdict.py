"""A profile in words: what a phase is bound by, how near it is, where the rest goes."""

from __future__ import annotations

from collections.abc import Iterator

from vivace.bench.profile import Group, PhaseProfile

MIN_LOSS_SHARE = 0.03  # of a step: less is not worth a line
MAX_LOSSES = 3


def verdict(profile: PhaseProfile) -> list[str]:
    """Sentences, the most important one first."""
    return [*_bound(profile), *_losses(profile), _overhead(profile)]


def _bound(profile: PhaseProfile) -> Iterator[str]:
    name, ceilings, step_s = profile.phase.name, profile.ceilings, profile.step_s
    if ceilings is None:
        yield f"{name}: this backend measures no ceilings"
        return
    by_bound: dict[str, float] = {}
    for group in profile.groups:
        by_bound[group.bound or ""] = by_bound.get(group.bound or "", 0.0) + (group.best_s or 0.0)
    bound = max(by_bound, key=lambda name: by_bound[name])
    if bound == "memory":
        rate, limit = profile.num_bytes / step_s / 1e9, ceilings.read_gb_per_s
        yield f"{name} is bound by memory: {rate:.1f} GB/s, {rate / limit:.0%} of a plain read ({limit:.1f} GB/s)"
    else:
        rate, limit = profile.operations / step_s / 1e9, ceilings.gop_per_s[bound]
        yield f"{name} is bound by {bound} arithmetic: {rate:.0f} GOP/s, {rate / limit:.0%} of the peak ({limit:.0f})"
    best_s = sum(by_bound.values())
    yield f"the ceilings allow a step in {1e3 * best_s:.2f} ms, it takes {1e3 * step_s:.2f}: {best_s / step_s:.0%}"


def _losses(profile: PhaseProfile) -> Iterator[str]:
    if profile.ceilings is None:
        return
    losses = sorted(((group.seconds - (group.best_s or 0.0), group) for group in profile.groups), key=_seconds)
    for seconds, group in reversed(losses[-MAX_LOSSES:]):
        if seconds > MIN_LOSS_SHARE * profile.timed_s:
            share = seconds / profile.timed_s
            yield f"lost in {group.role}: {1e3 * seconds:.2f} ms above its ceiling, {share:.0%} of the step"


def _seconds(loss: tuple[float, Group]) -> float:
    return loss[0]


def _overhead(profile: PhaseProfile) -> str:
    engine = profile.engine
    whole = profile.step_s + engine.total_s
    share = (engine.python_s + profile.between_s) / whole
    parts = f"Python {1e3 * engine.python_s:.2f} ms, checks {1e3 * profile.between_s:.3f} ms"
    text = f"outside kernels: {share:.1%} of a step ({parts}); sampling {1e3 * engine.sampling_s:.2f} ms"
    if profile.barrier_s is None:
        return text
    share = profile.barrier_s * profile.num_barriers / whole
    return f"{text}; {profile.num_barriers} barriers of {1e6 * profile.barrier_s:.1f} us: {share:.1%}"
