"""Medusa heads in the engine: which are refused, what they guess, and typical acceptance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vivace.core.draft_tree import DraftTree
from vivace.core.errors import ConfigError, ModelFileError
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import SpeculativeConfig
from vivace.engine.llm import LLM
from vivace.models.medusa import MedusaHeads, read_medusa, write_medusa
from vivace.resources import resource
from vivace.speculate.candidate_tree import candidate_tree
from vivace.speculate.tree_acceptance import TreeAcceptance
from vivace.speculate.typical import TypicalAcceptance

OPTIONS: dict[str, Any] = {"max_model_len": 256, "max_num_seqs": 4, "num_kv_blocks": 64}
GREEDY = SamplingParams(max_tokens=40, temperature=0.0, ignore_eos=True)


def embedded_heads() -> MedusaHeads:
    return read_medusa(resource("embedded-medusa").path)


def served(heads: MedusaHeads, folder: Path, **changes: Any) -> LLM:
    write_medusa(folder, heads)
    wanted = {"method": "medusa", "model": str(folder), "adaptive": False, "num_speculative_tokens": 6, **changes}
    return LLM(**OPTIONS, speculative_config=wanted)


@pytest.mark.parametrize("change", ["hidden", "vocabulary"])
def test_heads_of_another_model_are_refused(tmp_path: Path, change: str) -> None:
    heads = embedded_heads()
    if change == "hidden":
        narrow = heads.weights_KDI[:, :128, : 128 * (2 if heads.sees_token else 1)]
        heads = replace(heads, weights_KDI=narrow, biases_KD=heads.biases_KD[:, :128])
    else:
        heads = replace(heads, vocab_size=32000)
    with pytest.raises(ConfigError, match=r"heads are for hidden states of .* the model has 256 and 4096: make"):
        served(heads, tmp_path)


def test_heads_without_accuracy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks `accuracy`"):
        served(replace(embedded_heads(), facts={}), tmp_path)


def test_a_folder_without_heads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="vivace train-medusa"):
        LLM(**OPTIONS, speculative_config={"method": "medusa", "model": str(tmp_path)})


@pytest.mark.parametrize("sees_token", [False, True])
def test_guesses_are_those_of_the_formula(tmp_path: Path, sees_token: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random heads on the engine's states, recomputed in float64 from the definition."""
    rng = np.random.default_rng(3)
    embedded = embedded_heads()
    width = embedded.hidden_size
    heads = replace(
        embedded,
        weights_KDI=rng.normal(0, 0.1, (4, width, width * (2 if sees_token else 1))).astype(np.float32),
        biases_KD=rng.normal(0, 0.1, (4, width)).astype(np.float32),
    )
    llm = served(heads, tmp_path)
    stored = read_medusa(tmp_path)  # as rounded to bfloat16
    assert llm.engine.speculation is not None
    proposer, seen = llm.engine.speculation.proposer, []
    original = proposer._guesses

    def watched(rows: list[int], tokens: list[int], trees: list[Any]) -> list[list[int]]:
        guesses = original(rows, tokens, trees)
        seen.append((np.array(proposer._last.states[rows], np.float64), tokens, trees, guesses))
        return guesses

    monkeypatch.setattr(proposer, "_guesses", watched)
    llm.generate([[1, 2, 3, 4], [9, 8, 7]], GREEDY)
    from safetensors import safe_open

    with safe_open(str(resource("embedded").path / "model.safetensors"), "pt") as file:
        table = file.get_tensor("model.embed_tokens.weight").to(torch.float64).numpy()
    agreeing = total = 0
    for states, tokens, trees, guesses in seen:
        for state, token, tree, made in zip(states, tokens, trees, guesses, strict=True):
            embedding = table[token] / np.sqrt(np.mean(table[token] ** 2) + 1e-6)
            inputs = np.concatenate([state, embedding]) if sees_token else state
            for head, rank, guess in zip(tree.heads, tree.ranks, made, strict=True):
                z = stored.weights_KDI[head].astype(np.float64) @ inputs + stored.biases_KD[head]
                logits = table @ (state + z / (1 + np.exp(-z)))
                agreeing += int(np.argsort(-logits, kind="stable")[rank] == guess)
                total += 1
    assert total > 100
    assert agreeing / total > 0.97  # bfloat16 products turn near ties


def test_a_tree_puts_its_line_first() -> None:
    tree = candidate_tree([(0,), (1,), (0, 0), (0, 1), (1, 0), (0, 0, 0)])
    assert tree.tree == DraftTree((-1, 0, 1, -1, 0, 3))
    assert tree.tree.num_chain == 3
    assert tree.numbers == (0, 2, 5, 1, 3, 4)
    assert (tree.heads, tree.ranks) == ((0, 1, 2, 0, 1, 1), (0, 0, 0, 1, 1, 0))
    assert tree.tree.children == ((0, 3), (1, 4), (2,), (), (5,), (), ())
    assert candidate_tree([(0,), (0, 0)]).tree is None


def test_chances_follow_what_stood() -> None:
    llm = LLM(**OPTIONS)
    llm.engine.add("r", [1, 2], GREEDY)
    sequence = llm.engine.record("r").sequences[0]
    acceptance = TreeAcceptance([0.9, 0.5, 0.4])
    assert acceptance.chances(sequence) == [0.9, 0.5, 0.4]
    for _ in range(200):
        acceptance.learn(sequence, 3, {1, 2})
    first, second, third = acceptance.chances(sequence)
    assert first == second == third < 0.05, "a guess is not made before the ones that come before it"


def logits(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities, np.float64)).astype(np.float32)


def test_typical_acceptance_is_the_papers() -> None:
    """p > min(threshold, alpha * exp(-entropy)), at the request's temperature, within what the sampler may draw."""
    judge = TypicalAcceptance(0.09, 0.3)
    one = SamplingParams(temperature=1.0)
    assert judge.standing(logits(0.5, 0.3, 0.12, 0.08), one).tolist() == [True, True, True, False]
    flat = np.zeros(100, np.float32)  # entropy ln 100: from 0.003 on
    assert judge.standing(flat, one).all()
    assert judge.standing(logits(0.5, 0.3, 0.12, 0.08), replace(one, top_k=2)).tolist() == [True, True, False, False]
    assert judge.standing(logits(0.5, 0.3, 0.12, 0.08), replace(one, top_p=0.6)).tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert judge.standing(logits(0.5, 0.3, 0.12, 0.08), replace(one, min_p=0.7)).tolist() == [True] + [False] * 3
    cold = replace(one, temperature=0.25)
    assert judge.standing(logits(0.5, 0.3, 0.12, 0.08), cold).tolist() == [True, True, False, False]


def test_typical_acceptance_brings_more_guesses_and_leaves_greedy_texts_alone() -> None:
    exact = {"method": "medusa", "adaptive": False, "num_speculative_tokens": 8}
    engines = {
        name: LLM(**OPTIONS, speculative_config={**exact, "acceptance": name}) for name in ("exact", "typical")
    }
    prompts = [[5, 6, 7, 8], [100, 200, 300]]
    assert (
        engines["typical"].generate(prompts, GREEDY)[0].outputs
        == engines["exact"].generate(prompts, GREEDY)[0].outputs
    )
    sampled = SamplingParams(max_tokens=120, temperature=0.7, seed=5, ignore_eos=True, logprobs=1)
    stood = {}
    for name, llm in engines.items():
        before = llm.engine.speculation.stats.num_accepted_tokens
        outputs = llm.generate(prompts, sampled)
        stood[name] = llm.engine.speculation.stats.num_accepted_tokens - before
        for output in outputs:
            entries = output.outputs[0].logprobs
            assert [entry.token for entry in entries] == list(output.outputs[0].token_ids)
    assert stood["typical"] > stood["exact"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"method": "medusa", "acceptance": "lenient"},
            "acceptance of speculative_config must be one of exact, typical",
        ),
        ({"method": "medusa", "posterior_alpha": 0}, "posterior_alpha of speculative_config must be above 0"),
        (
            {"method": "ngram", "posterior_threshold": True},
            "posterior_threshold of speculative_config must be above 0",
        ),
        ({"method": "ngram", "model": "x"}, "takes no model"),
    ],
)
def test_wrong_options_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeculativeConfig.parse(json.dumps(values))


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "heads"
    shutil.copytree(resource("embedded-medusa").path, folder)
    data = bytearray((folder / "medusa.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "medusa.safetensors").write_bytes(data)
    with pytest.raises(ModelFileError, match="broken or of other heads"):
        LLM(**OPTIONS, speculative_config={"method": "medusa", "model": str(folder)})
