"""Tasks on a tiny model, against what transformers gives for the same prompts, and against figures made by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from tiny_models import byte_ids, random_llama

from vivace.core.errors import ConfigError
from vivace.engine.llm import LLM
from vivace.evaluate.continuations import score_continuations, tokenize_continuation
from vivace.evaluate.journal import Journal
from vivace.evaluate.task_files import TaskFile, read_task
from vivace.evaluate.task_items import ChoiceItem, LastWordItem, NumberItem, flexible_number, strict_number
from vivace.evaluate.tasks import ITEMS_AT_ONCE, pose, run_task

QUESTIONS = [
    ("What falls from clouds?", ["rain", "stones and other things", "fire"], 0),
    ("Where do fish live?", ["in trees", "in water", "on the moon, mostly"], 1),
    ("What do bees make?", ["a noise that nobody can hear", "bread", "honey"], 2),
    ("Which is cold?", ["ice", "a fire that burns in the stove", "the sun"], 0),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_llama(tmp_path_factory.mktemp("tasks") / "model", seed=21)


@pytest.fixture(scope="module")
def llm(model: Path) -> LLM:
    return LLM(str(model), max_num_seqs=8, max_num_batched_tokens=96)


@pytest.fixture(scope="module")
def oracle(model: Path) -> transformers.PreTrainedModel:
    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def _loglikelihood(oracle: transformers.PreTrainedModel, text: str, continuation: str) -> tuple[float, bool]:
    """Every byte is a token of this model: what lm-evaluation-harness computes for a request of its kind."""
    ids, num_scored = torch.tensor([byte_ids(text + continuation)]), len(continuation.encode())
    with torch.no_grad():
        logprobs = oracle(ids).logits[0, -1 - num_scored : -1].double().log_softmax(-1)
    targets = ids[0, -num_scored:]
    greedy = bool((logprobs.argmax(-1) == targets).all())
    return float(logprobs.gather(1, targets[:, None]).sum()), greedy


def _file(items: list[ChoiceItem] | list[LastWordItem] | list[NumberItem]) -> TaskFile:
    return TaskFile("made", "choices", list(items))


def test_choices_equal_those_of_transformers(llm: LLM, oracle: transformers.PreTrainedModel) -> None:
    items = [ChoiceItem(f"Question: {asked}\nAnswer:", tuple(texts), gold) for asked, texts, gold in QUESTIONS]
    acc, acc_norm = [], []
    for item in items:
        sums = [_loglikelihood(oracle, item.context, f" {text}")[0] for text in item.choices]
        scaled = [total / len(text) for total, text in zip(sums, item.choices, strict=True)]
        acc.append(sums.index(max(sums)) == item.gold)
        acc_norm.append(scaled.index(max(scaled)) == item.gold)
    result = run_task(llm, pose(_file(items), None, 0, 0))
    assert result.metrics["acc"].value == sum(acc) / len(acc)
    assert result.metrics["acc_norm"].value == sum(acc_norm) / len(acc_norm)
    share = sum(acc) / len(acc)
    expected = math.sqrt(share * (1 - share) / (len(acc) - 1))  # lm-evaluation-harness: sample deviation / sqrt(n)
    assert result.metrics["acc"].stderr == pytest.approx(expected)


def test_scores_equal_those_of_transformers(llm: LLM, oracle: transformers.PreTrainedModel) -> None:
    pairs = [("The dog ran", " home."), ("The dog ran ", "home."), ("a", "b" * 60), ("Once", " upon a time")]
    tokenized = [tokenize_continuation(llm.tokenizer, *pair) for pair in pairs]
    scores = score_continuations(llm, tokenized)
    for (context, continuation), score in zip(pairs, scores, strict=True):
        stripped = context.rstrip()
        blanks = context[len(stripped) :]
        expected, greedy = _loglikelihood(oracle, stripped, blanks + continuation)
        assert score.logprob == pytest.approx(expected, rel=1e-4)
        assert score.is_greedy == greedy
    assert scores[0].logprob == scores[1].logprob  # blanks belong to the continuation


def test_a_context_that_is_too_long_loses_its_beginning(llm: LLM, oracle: transformers.PreTrainedModel) -> None:
    context, continuation = "abcdefgh " * 30, " the end"
    [score] = score_continuations(llm, [tokenize_continuation(llm.tokenizer, context, continuation)])
    kept = (context.rstrip() + " " + continuation)[-128:]
    assert score.logprob == pytest.approx(_loglikelihood(oracle, kept[:-9], kept[-9:])[0], rel=1e-4)


def test_an_empty_context_begins_with_bos(llm: LLM) -> None:
    text = tokenize_continuation(llm.tokenizer, "", "ab")
    assert text.token_ids[0] in (256, 257)
    assert text.first == 1


def test_last_words_equal_those_of_transformers(llm: LLM, oracle: transformers.PreTrainedModel) -> None:
    texts = ["She opened the door and saw the garden", "He put on his coat", "They sang and"]
    with torch.no_grad():  # one that greedy decoding gives
        ids = oracle.generate(torch.tensor([byte_ids("I went")]), max_new_tokens=1, do_sample=False)[0].tolist()
    pairs = [(text.rpartition(" ")[0], text.rpartition(" ")[2]) for text in texts]
    expected = [_loglikelihood(oracle, context, f" {word}") for context, word in pairs]
    result = run_task(llm, pose(_file([LastWordItem(*pair) for pair in pairs]), None, 0, 0))
    assert result.metrics["acc"].value == sum(greedy for _, greedy in expected) / len(pairs)
    mean = sum(total for total, _ in expected) / len(pairs)
    assert result.metrics["perplexity"].value == pytest.approx(math.exp(-mean), rel=1e-3)
    greedy_text = llm.tokenizer.decode(ids[-1:], skip_special=False)
    [score] = score_continuations(llm, [tokenize_continuation(llm.tokenizer, "I went", greedy_text)])
    assert score.is_greedy


def test_numbers_are_found_as_in_the_harness() -> None:
    # what lm-evaluation-harness's gsm8k filters give: the match behind ####, and the last number, without , $ and .
    answers = {
        "So 3 + 4 = 7.\n#### 7": ("7", "7"),
        "It costs $1,234.50. #### 1,234.50": ("1234.50", "1234.50"),
        "#### 5 of 6": ("5", "6"),
        "He has -3 left.": (None, "-3"),
        "The answer is 42.": (None, "42"),
        "none": (None, None),
    }
    for text, (strict, flexible) in answers.items():
        assert strict_number(text) == strict
        assert flexible_number(text) == flexible


def test_generated_answers_are_read(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [NumberItem("Question: 3 + 4?\nAnswer:", "It is 7. #### 7", "7") for _ in range(3)]
    outputs = llm.generate([item.context for item in items])
    for output, text in zip(outputs, ["so 7\n#### 7", "maybe 7", "#### 8"], strict=True):
        output.outputs[0].text = text
    monkeypatch.setattr(llm, "generate", lambda *_: outputs)
    result = run_task(llm, pose(_file(items), None, 0, 0))
    assert result.metrics["exact_match"].value == pytest.approx(2 / 3)
    assert result.metrics["exact_match_strict"].value == pytest.approx(1 / 3)


def test_greedy_answers_equal_those_of_transformers(llm: LLM, oracle: transformers.PreTrainedModel) -> None:
    item = NumberItem("Question: 3 + 4?\nAnswer:", "#### 7", "7")
    kept: dict[str, dict[str, str]] = {}

    class Kept(Journal):
        def put(self, key: str, record: dict[str, str]) -> None:
            kept[key] = record

    run_task(llm, pose(_file([item]), None, 0, 0), journal=Kept(None, {}))
    prompt = torch.tensor([byte_ids(item.context)])
    written = oracle.generate(prompt, max_new_tokens=64, do_sample=False)[0, prompt.shape[1] :].tolist()
    expected = llm.tokenizer.decode(written)
    assert kept["made 0"]["text"][:20] == expected[:20]


def test_examples_are_drawn_by_seed_and_not_scored() -> None:
    items = [ChoiceItem(f"Question: {number}\nAnswer:", ("yes", "no"), number % 2) for number in range(9)]
    posed = pose(_file(items), None, 3, seed=1)
    assert len(posed.items) == 6
    for item in items:
        assert (item in posed.items) != (item.example in posed.examples)
    assert posed.examples.endswith("\n\n")
    assert pose(_file(items), 2, 3, seed=1).items == posed.items[:2]
    assert pose(_file(items), None, 3, seed=1) == posed != pose(_file(items), None, 3, seed=2)
    with pytest.raises(ConfigError, match="leave none"):
        pose(_file(items), None, 9, seed=1)


def test_an_interrupted_task_goes_on(llm: LLM, tmp_path: Path) -> None:
    items = [ChoiceItem(f"Number {number}", ("is odd", "is even"), number % 2) for number in range(ITEMS_AT_ONCE + 5)]
    task = pose(_file(items), None, 0, 0)
    whole = run_task(llm, task)

    def stop(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "journal", {}) as journal:
        run_task(llm, task, journal=journal, progress=stop)
    counts: list[int] = []
    with Journal(tmp_path / "journal", {}) as journal:
        assert journal.num_finished == ITEMS_AT_ONCE
        resumed = run_task(llm, task, journal=journal, progress=lambda done, _: counts.append(done))
    assert resumed == whole
    assert counts == [len(items)]


def test_a_file_scored_by_hand(llm: LLM, oracle: transformers.PreTrainedModel, tmp_path: Path) -> None:
    """From a file to the figures: the right answers are those that the model prefers, but for one."""
    lines = []
    for index, (asked, texts, _) in enumerate(QUESTIONS):
        sums = [_loglikelihood(oracle, f"Question: {asked}\nAnswer:", f" {text}")[0] for text in texts]
        best = sums.index(max(sums))
        gold = best if index else (best + 1) % len(texts)
        lines.append(json.dumps({"query": f"Question: {asked}", "choices": texts, "gold": gold}))
    path = tmp_path / "by_hand.jsonl"
    path.write_text("\n".join(lines))
    result = run_task(llm, pose(read_task(str(path)), None, 0, 0))
    assert result.record()["acc"] == 0.75
    assert result.record()["acc_stderr"] == pytest.approx(0.25)
    assert (result.name, result.num_items) == ("by_hand", 4)
