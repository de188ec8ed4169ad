"""Scenarios: what they promise of lengths, turns, sharing and order, the same for the same seed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from vivace.bench.load.body import with_answer
from vivace.bench.traffic.request import Traffic
from vivace.bench.traffic.scenario import CONVERSATIONS, SCENARIOS, make_traffic
from vivace.core.errors import ConfigError
from vivace.engine.chat_template import encode_chat
from vivace.engine.tokenizer import Tokenizer, load_tokenizer
from vivace.resources import embedded_model_path

GENERATED = [name for name in SCENARIOS if name != CONVERSATIONS]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(embedded_model_path())


def _prompt_ids(tokenizer: Tokenizer, traffic: Traffic) -> list[list[int]]:
    return [
        tokenizer.encode(request.text) if request.text is not None else encode_chat(tokenizer, request.messages or ())
        for request in traffic.requests
    ]


@pytest.mark.parametrize("name", GENERATED)
@pytest.mark.parametrize("max_model_len", [256, 2048])
def test_prompts_have_their_length_and_fit_the_context(tokenizer: Tokenizer, name: str, max_model_len: int) -> None:
    traffic = make_traffic(name, tokenizer=tokenizer, num_requests=30, rate=5.0, max_model_len=max_model_len)
    assert [request.index for request in traffic.requests] == list(range(30))
    for request, ids in zip(traffic.requests, _prompt_ids(tokenizer, traffic), strict=True):
        assert request.prompt_len == len(ids)
        assert request.output_len >= 1
        assert request.prompt_len + request.output_len <= max_model_len
        assert (request.text is None) != (request.messages is None)


@pytest.mark.parametrize("name", GENERATED)
def test_a_seed_decides_all_of_the_traffic(tokenizer: Tokenizer, name: str) -> None:
    def traffic(seed: int) -> Traffic:
        return make_traffic(name, tokenizer=tokenizer, num_requests=12, rate=3.0, seed=seed, cancel_share=0.5)

    assert repr(traffic(7)) == repr(traffic(7))
    assert repr(traffic(7)) != repr(traffic(8))


def test_another_process_makes_the_same_traffic(tokenizer: Tokenizer) -> None:
    """Where texts hash otherwise."""
    program = """
from vivace.bench.traffic.scenario import make_traffic
from vivace.engine.tokenizer import load_tokenizer
from vivace.resources import embedded_model_path
print(make_traffic("rag", tokenizer=load_tokenizer(embedded_model_path()), num_requests=9, rate=3.0, seed=6))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": "17"}, capture_output=True, check=True
    )
    here = make_traffic("rag", tokenizer=tokenizer, num_requests=9, rate=3.0, seed=6)
    assert done.stdout.decode().strip() == str(here)


def test_scenarios_have_the_shapes_that_they_are_named_for(tokenizer: Tokenizer) -> None:
    def made(name: str) -> Traffic:
        return make_traffic(name, tokenizer=tokenizer, num_requests=60, concurrency=3, seed=2)

    long_prompts, long_answers = made("long-prompt").requests, made("long-answer").requests
    assert all(one.prompt_len >= 1024 and one.output_len <= 64 for one in long_prompts)
    assert all(one.prompt_len <= 64 and one.output_len >= 512 for one in long_answers)
    systems = Counter((one.messages or ())[0]["content"] for one in made("system-prompt").requests)
    assert 2 <= len(systems) <= 4
    assert all(len(tokenizer.encode(text)) == 1024 for text in systems)
    agents = made("agent").requests
    followers = [one for one in agents if one.after is not None]
    assert len(followers) > 40
    for one in followers:
        before = agents[one.after or 0]
        assert one.prompt_len > before.prompt_len + before.output_len
        assert (one.messages or ())[-1]["content"].startswith("Tool result:")


def test_traffic_of_two_seeds_shares_no_block(tokenizer: Tokenizer) -> None:
    """Else a sweep's second point finds the first one's prompts in the prefix cache."""
    points = [make_traffic("uniform", tokenizer=tokenizer, num_requests=60, rate=2.0, seed=seed) for seed in range(3)]
    openings = [tuple(ids[:16]) for point in points for ids in _prompt_ids(tokenizer, point)]
    assert len(set(openings)) == len(openings) == 180


def test_chats_share_the_system_prompt_and_grow_by_turns(tokenizer: Tokenizer) -> None:
    traffic = make_traffic(tokenizer=tokenizer, num_requests=80, concurrency=4)
    requests = traffic.requests
    assert traffic.concurrency == 4
    assert len({request.messages[0]["content"] for request in requests if request.messages}) == 1
    followers = [request for request in requests if request.after is not None]
    assert len(followers) > 20
    for request in followers:
        before = requests[request.after or 0]
        assert before.index < request.index
        assert request.messages is not None
        assert before.messages == request.messages[: len(before.messages or ())]
        assert [message["role"] for message in request.messages[-2:]] == ["assistant", "user"]
        assert request.think_s > 0
        assert request.arrival_s is None
    assert max(Counter(request.after for request in followers).values()) == 1


def test_answers_take_their_places_in_all_later_turns(tokenizer: Tokenizer) -> None:
    traffic = make_traffic("agent", tokenizer=tokenizer, num_requests=20, concurrency=1)
    third = next(
        request for request in traffic.requests if request.after is not None and len(request.messages or ()) == 6
    )
    second = traffic.requests[third.after or 0]
    first = traffic.requests[second.after or 0]
    sent = with_answer(second, first, "first answer")
    messages = with_answer(third, sent, "second answer").messages or ()
    assert [one["content"] for one in messages if one["role"] == "assistant"] == ["first answer", "second answer"]
    asked = [message for message in messages if message["role"] != "assistant"]
    assert asked == [message for message in third.messages or () if message["role"] != "assistant"]
    alone = make_traffic("uniform", tokenizer=tokenizer, num_requests=2).requests
    assert with_answer(alone[1], alone[0], "none") == alone[1]


def test_popular_documents_come_again(tokenizer: Tokenizer) -> None:
    traffic = make_traffic("rag", tokenizer=tokenizer, num_requests=120, rate=2.0)
    firsts = Counter((request.messages or ())[1]["content"][:60] for request in traffic.requests)
    print(firsts.most_common(5))
    assert firsts.most_common(1)[0][1] >= 8  # 1/H(200) = 17% of 120 are expected: 20
    assert len(firsts) > 30


def test_open_loops_send_at_the_rate_and_never_before_what_they_follow(tokenizer: Tokenizer) -> None:
    traffic = make_traffic(tokenizer=tokenizer, num_requests=400, rate=10.0, seed=3)
    moments = [request.arrival_s for request in traffic.requests if request.arrival_s is not None]
    assert moments == sorted(moments)
    assert moments[0] == 0
    assert 400 / moments[-1] == pytest.approx(10, rel=0.25)  # of ~165 chats' gaps: 3 standard errors


def test_all_at_once_where_nothing_else_is_said(tokenizer: Tokenizer) -> None:
    traffic = make_traffic("uniform", tokenizer=tokenizer, num_requests=3, prompt_len=100, output_len=7)
    assert [(one.arrival_s, one.prompt_len, one.output_len) for one in traffic.requests] == [(0.0, 100, 7)] * 3


def test_clients_leave_in_the_share_that_is_asked_for(tokenizer: Tokenizer) -> None:
    traffic = make_traffic(
        "uniform", tokenizer=tokenizer, num_requests=300, seed=5, prompt_len=4, cancel_share=0.3, cancel_after_s=2.0
    )
    left = [one.cancel_after_s for one in traffic.requests if one.cancel_after_s is not None]
    assert len(left) == pytest.approx(90, abs=24)  # 3 standard deviations of a binomial
    assert sum(left) / len(left) == pytest.approx(2, rel=0.33)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "chatt"}, "did you mean 'chat'"),
        ({"num_requests": 0}, "1 request or more"),
        ({"rate": 1.0, "concurrency": 2}, "not both"),
        ({"rate": 0.0}, "above 0"),
        ({"rate": float("nan")}, "above 0"),
        ({"burstiness": -1.0, "rate": 1.0}, "burstiness"),
        ({"concurrency": 0}, "1 user"),
        ({"max_model_len": 16}, "context of 128"),
        ({"prompt_len": 5}, "fixed lengths"),
        ({"name": "uniform", "prompt_len": 5000}, "do not fit"),
        ({"name": "conversations"}, "belong together"),
        ({"think_s": -1.0}, "pause"),
        ({"cancel_share": 2.0}, "from 0 to 1"),
        ({"cancel_share": 0.5, "cancel_after_s": 0.0}, "above 0 seconds"),
        ({"text": "/no/such/file"}, "cannot read"),
    ],
)
def test_wrong_options_are_refused_in_one_line(tokenizer: Tokenizer, options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as raised:
        make_traffic(**({"tokenizer": tokenizer} | options))  # type: ignore[arg-type]
    assert "\n" not in str(raised.value)


def test_prompts_are_made_of_the_users_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(" ".join(f"word{number} and" for number in range(500)))
    traffic = make_traffic("uniform", tokenizer=tokenizer, num_requests=2, text=path)
    assert traffic.source["text"] == str(path)
    assert set((traffic.requests[0].text or "").lower().split()) <= set(path.read_text().split())
