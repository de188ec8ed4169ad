"""Prepares, trains and exports a tiny model on generated text; transformers is the judge of the result."""

import json
import lzma
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from training import checkpoint, export, prepare, train

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
    arguments = ["--data", str(data), "--run", str(trained[0]), "--output", str(output), "--context", "32"]
    quality = export.export(export.parse_options(arguments))
    return output, quality


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


def test_measured_quality_is_that_of_transformers(exported, data):
    model = AutoModelForCausalLM.from_pretrained(exported[0], dtype=torch.float32)
    tokens = torch.from_numpy(np.load(data / "heldout.npy").astype(np.int64))
    nats, count = 0.0, len(tokens) - 1
    with torch.no_grad():
        for start in range(0, count, 32):
            window = tokens[start : start + 33][None]
            loss = torch.nn.functional.cross_entropy(model(window[:, :-1]).logits[0], window[0, 1:], reduction="sum")
            nats += loss.item()
    assert exported[1].nats_per_token == pytest.approx(nats / count, rel=1e-4)
    num_bytes = json.loads((data / "corpus.json").read_text())["heldout_bytes"]
    assert exported[1].bits_per_byte == pytest.approx(nats / np.log(2) / num_bytes, rel=1e-2)


def test_card_says_data_licence_tokens_and_loss(exported, trained):
    card = (exported[0] / "README.md").read_text()
    for fact in ("`a.txt`, `b.txt.xz`", "Apache-2.0", f"{trained[1].tokens:,} tokens", "bits per byte"):
        assert fact in card


def test_options_that_cannot_work_are_refused(data, tmp_path):
    with pytest.raises(SystemExit):
        train.parse_options(["--data", str(data), "--run", str(tmp_path)])
    with pytest.raises(SystemExit):
        prepare.parse_options(["a.txt", "--heldout", "b.txt", "--output", "x", "--vocab-size", "70000"])
    with pytest.raises(FileNotFoundError, match=r"training\.prepare"):
        train.Trainer(train.parse_options(["--data", str(tmp_path), "--run", str(tmp_path), "--steps", "1"]))
