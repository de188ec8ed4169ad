"""Prepares, trains and exports a tiny model on generated text; transformers is the judge of the result."""

import json
import lzma
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from training import checkpoint, export, prepare, train
from training.distillation import measure_acceptance
from training.model import Llama
from training.schedule import Schedule, StepClock
from training.tokens import heldout_windows
from vivace.cli.app import app
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM

SHAPE = ["--vocab-size", "400", "--hidden", "32", "--intermediate", "64", "--layers", "2", "--heads", "4"]
SHAPE += ["--kv-heads", "2", "--max-length", "64", "--context", "32", "--batch", "4", "--micro-batch", "2"]
ANYTHING = "Ünïcødé 日本 \x00\x7f 😀\r\n\t  two  spaces <|user|> <|endoftext|>"


def write_text(path: Path, seed: int) -> None:
    """Documents of made-up sentences, a dialogue among them, separated as the training text is."""
    rng = random.Random(seed)
    words = ["river", "stone", "walks", "under", "bright", "quiet", "the", "a", "morning", "house"]
    documents = []
    for _ in range(40):
        prose = " ".join(rng.choice(words) for _ in range(120))
        documents.append(f'# The {rng.choice(words)}\n\n{prose}.\n\n"Is it {rng.choice(words)}?"\n\n"It is."\n')
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write("<|endoftext|>\n".join(documents))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    write_text(folder / "a.txt", 1)
    write_text(folder / "b.txt.xz", 2)
    write_text(folder / "held.txt", 3)
    files = [str(folder / "a.txt"), str(folder / "b.txt.xz"), "--heldout", str(folder / "held.txt")]
    arguments = [*files, "--output", str(folder / "data"), "--vocab-size", "400", "--max-length", "64"]
    prepare.prepare(prepare.parse_options(arguments))
    return folder / "data"


def train_model(data, run, steps, *more):
    options = train.parse_options(["--data", str(data), "--run", str(run), "--steps", str(steps), *SHAPE, *more])
    progress = train.Trainer(options).run()
    return progress, load_file(checkpoint.latest(run) / "model.safetensors")


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    run = tmp_path_factory.mktemp("run")
    progress, weights = train_model(data, run, 12, "--milestone-steps", "6")
    return run, progress, weights


@pytest.fixture(scope="module")
def exported(data, trained, tmp_path_factory):
    output = tmp_path_factory.mktemp("exported") / "model"
    arguments = ["--data", str(data), "--run", str(trained[0]), "--output", str(output), "--gguf", "bf16"]
    measured = export.export(export.parse_options(arguments))
    return output, measured


@pytest.fixture(scope="module")
def draft(data, trained, tmp_path_factory):
    """A draft of the trained model: its run, its progress and its export."""
    run = tmp_path_factory.mktemp("draft-run")
    shape = ["--hidden", "16", "--intermediate", "32", "--layers", "1", "--heads", "2", "--kv-heads", "1"]
    progress, _ = train_model(data, run, 40, "--milestone-steps", "20", "--teacher", str(trained[0]), *shape)
    output = run.with_name("draft") / "model"
    output.parent.mkdir()
    arguments = ["--data", str(data), "--run", str(run), "--output", str(output), "--target", str(trained[0])]
    export.export(export.parse_options(arguments))
    return run, progress, output


def test_tokenizer_returns_any_text_and_reads_no_special_token_in_it(data):
    tokenizer = AutoTokenizer.from_pretrained(data)
    assert tokenizer.decode(tokenizer(ANYTHING)["input_ids"]) == ANYTHING
    ids = np.concatenate(prepare.encode_documents(tokenizer.backend_tokenizer, [ANYTHING], ""))
    assert ids[-1] == 0
    assert ids.dtype == np.uint16
    assert min(ids[:-1]) >= len(prepare.SPECIAL_TOKENS)


def test_conversations_are_tokenised_as_the_chat_template_lays_them_out(data):
    tokenizer = AutoTokenizer.from_pretrained(data)
    messages = [{"role": "user", "content": "Is it bright?"}, {"role": "assistant", "content": "It is."}]
    expected = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    ids = prepare.encode_conversation(tokenizer.backend_tokenizer, [m["content"] for m in messages])
    assert ids.tolist() == [*expected, tokenizer.eos_token_id]


def test_shards_hold_what_the_corpus_says(data):
    corpus = json.loads((data / "corpus.json").read_text())
    tokens = np.load(data / "tokens-00000.npy")
    assert len(tokens) == corpus["tokens"]
    assert (tokens == 0).sum() == corpus["documents"] + corpus["conversations"]
    assert corpus["documents"] == 80
    assert corpus["conversations"] > 0
    heldout = AutoTokenizer.from_pretrained(data).decode(np.load(data / "heldout.npy")).replace("<|endoftext|>", "")
    assert len(heldout.encode()) == corpus["heldout_bytes"]


def test_training_learns_and_leaves_one_checkpoint_and_a_curve(trained):
    run, progress, _ = trained
    assert progress.step == 12
    assert progress.tokens == 12 * 4 * 32
    assert [step for step, _, _ in progress.heldout_curve] == [6, 12]
    assert progress.heldout_curve[1][2] < progress.heldout_curve[0][2] < np.log(400)
    assert {path.name for path in run.iterdir()} == {"step-000012", "loss.png"}
    assert {path.suffix for path in (run / "step-000012").iterdir()} == {".safetensors", ".json"}


def test_the_same_seed_gives_identical_weights_and_another_does_not(data, trained, tmp_path):
    _, again = train_model(data, tmp_path / "again", 12, "--milestone-steps", "6")
    _, other = train_model(data, tmp_path / "other", 12, "--seed", "1")
    assert all(torch.equal(again[name], tensor) for name, tensor in trained[2].items())
    assert not torch.equal(other["model.norm.weight"], trained[2]["model.norm.weight"])


def test_an_interrupted_run_goes_on_to_where_an_uninterrupted_one_ends(data, trained, tmp_path, monkeypatch):
    options = ["--data", str(data), "--run", str(tmp_path), "--steps", "12", "--milestone-steps", "6", *SHAPE]
    first = train.Trainer(train.parse_options(options))
    take_step = first.step

    def step_until_interrupted() -> float:
        if first.progress.step == 5:
            first.stop()
        return take_step()

    monkeypatch.setattr(first, "step", step_until_interrupted)
    first.run()
    resumed = train.Trainer(train.parse_options(options))
    assert resumed.progress.step == 6
    resumed.run()
    weights = load_file(checkpoint.latest(tmp_path) / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in trained[2].items())


def test_transformers_computes_the_same_logits_from_the_export(exported, trained):
    theirs = AutoModelForCausalLM.from_pretrained(exported[0], dtype=torch.float32)
    ours, _ = checkpoint.load_model(checkpoint.latest(trained[0]))
    ours.to(torch.bfloat16).to(torch.float32)
    tokens = torch.randint(400, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)
    assert theirs.generation_config.eos_token_id == [0, 4]
    assert load_file(exported[0] / "model.safetensors")["model.norm.weight"].dtype == torch.bfloat16


def test_the_card_is_repeated_by_one_command(exported, data):
    heldout = str(data / "heldout.txt")
    done = CliRunner().invoke(app, ["evaluate", str(exported[0]), "--dataset", heldout, "--json"])
    again = json.loads(done.stdout)
    assert again["bits_per_byte"] == exported[1].bits_per_byte
    card = (exported[0] / "README.md").read_text()
    assert f"perplexity {again['perplexity']:.2f}, {again['bits_per_byte']:.3f} bits per byte" in card


def test_heldout_text_is_plain(data):
    text = (data / "heldout.txt").read_text()
    assert "<|endoftext|>" not in text
    assert text.startswith("# The ")
    assert len(text) <= 40 * (prepare.HELDOUT_CHARS + 2)


def test_gguf_gives_the_same_text(exported):
    greedy = SamplingParams(temperature=0.0, max_tokens=24, logprobs=2, ignore_eos=True)
    ours, theirs = (
        LLM(str(path)).generate("The river walks", greedy)[0]
        for path in (exported[0].with_suffix(".gguf"), exported[0])
    )
    assert ours.prompt_token_ids == theirs.prompt_token_ids
    assert ours.outputs == theirs.outputs


def test_card_says_data_licence_tokens_and_loss(exported, trained):
    card = (exported[0] / "README.md").read_text()
    for fact in ("`a.txt`, `b.txt.xz`", "Apache-2.0", f"{trained[1].tokens:,} tokens", "bits per byte", "## Samples"):
        assert fact in card


def test_draft_learns_the_distribution_of_its_target(draft, data, trained):
    run, _, output = draft
    target, _ = export.load_rounded(trained[0])
    learnt, _ = export.load_rounded(run)
    untaught = Llama(learnt.shape)
    before, after = (export.draft_acceptance(one, target, data) for one in (untaught, learnt))
    assert before.sampled < after.sampled < 1
    card = (output / "README.md").read_text()
    assert f"| acceptance of its samples | {after.sampled:.3f}" in card
    theirs = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32)
    tokens = torch.randint(400, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(learnt(tokens), theirs(tokens).logits, atol=1e-5, rtol=1e-5)


def test_acceptance_is_the_overlap_of_both_distributions(trained, data):
    target, _ = export.load_rounded(trained[0])
    alone = export.draft_acceptance(target, target, data)
    assert alone.sampled == pytest.approx(1)
    assert alone.greedy == 1
    assert alone.expected_tokens(4) == pytest.approx(5)
    uniform = Llama(target.shape)
    torch.nn.init.zeros_(uniform.model.embed_tokens.weight)
    rows = next(iter(heldout_windows(data / "heldout.npy", 32, 4)))
    with torch.no_grad():
        probabilities = torch.softmax(target(rows[:, :-1]), dim=-1)
    expected = torch.minimum(probabilities, torch.full_like(probabilities, 1 / 400)).sum(dim=-1).mean().item()
    assert measure_acceptance(uniform, target, [rows]).sampled == pytest.approx(expected, rel=1e-5)


def test_two_processes_train_the_same_model(data, trained, tmp_path):
    shape = [
        *SHAPE,
        "--data",
        str(data),
        "--run",
        str(tmp_path),
        "--steps",
        "12",
        "--processes",
        "2",
        "--threads",
        "1",
    ]
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-m", "training.train", *shape], cwd=root, check=True, timeout=280)
    weights = load_file(checkpoint.latest(tmp_path) / "model.safetensors")
    for name, tensor in trained[2].items():  # sums in another order, which twelve steps of Muon amplify
        torch.testing.assert_close(weights[name], tensor, atol=5e-3, rtol=5e-2)


def test_batch_and_context_grow_along_the_schedule():
    arguments = [
        "--data",
        "d",
        "--run",
        "r",
        "--steps",
        "100",
        *SHAPE,
        "--final-batch",
        "12",
        "--final-context",
        "64",
    ]
    progress = checkpoint.Progress()
    schedule = Schedule(train.parse_options(arguments), progress)
    seen = {}
    for progress.step in (0, 50, 84, 85, 100):
        seen[progress.step] = (schedule.context, schedule.num_windows, schedule.micro_batch)
    assert seen == {0: (32, 4, 2), 50: (32, 8, 2), 84: (32, 10, 2), 85: (64, 5, 1), 100: (64, 6, 1)}


def test_a_stopped_process_trains_no_time():
    clock = StepClock()
    assert clock.charge(40.0) == 0.0  # the first step compiles
    assert [clock.charge(1.0) for _ in range(40)] == [1.0] * 40
    assert clock.charge(600.0) == 5.0


def test_options_that_cannot_work_are_refused(data, tmp_path):
    with pytest.raises(SystemExit):
        train.parse_options(["--data", str(data), "--run", str(tmp_path)])
    with pytest.raises(SystemExit):
        prepare.parse_options(["a.txt", "--heldout", "b.txt", "--output", "x", "--vocab-size", "70000"])
    with pytest.raises(FileNotFoundError, match=r"training\.prepare"):
        train.Trainer(train.parse_options(["--data", str(tmp_path), "--run", str(tmp_path), "--steps", "1"]))
