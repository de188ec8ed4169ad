"""Model cards: templates in `cards/`, `str.format` texts, filled with the facts of a model."""

import json
from pathlib import Path
from typing import Any

from training.checkpoint import Progress
from training.distillation import Acceptance
from training.model import Llama
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.evaluate.perplexity import PerplexityResult

CARDS = Path(__file__).with_name("cards")
PROMPTS = ("It was late when the old man", "The function returns", "In the morning they went down to the river and")
QUESTION = "What is a file?"
GUESSES = 4


def model_facts(data: Path, model: Llama, progress: Progress, measured: PerplexityResult) -> dict[str, Any]:
    corpus = json.loads((data / "corpus.json").read_text())
    return {
        "shape": model.shape,
        "million_parameters": model.num_parameters() / 1e6,
        "tokens_of_parameter": progress.tokens / model.num_parameters(),
        "files": ", ".join(f"`{name}`" for name in corpus["files"]),
        "corpus": corpus,
        "progress": progress,
        "minutes": progress.seconds / 60,
        "training_loss": progress.train_curve[-1][2],
        "measured": measured,
        "final_context": progress.final_context,
        "final_percent": 100 * progress.final_fraction,
    }


def draft_facts(draft: Llama, target: Llama, acceptance: Acceptance) -> dict[str, Any]:
    return {
        "times_smaller": target.num_parameters() / draft.num_parameters(),
        "acceptance": acceptance,
        "sampled": acceptance.sampled,
        "expected": acceptance.expected_tokens(GUESSES),
    }


def medusa_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """From `medusa.json`."""
    width, num_heads = manifest["hidden_size"], manifest["num_heads"]
    num_inputs = width * (2 if manifest["training"]["sees_token"] else 1)
    rows = [
        f"| head {head} | " + " | ".join(f"{100 * sum(row[:k]):.1f}%" for k in (1, 3, 5, 10)) + " |"
        for head, row in enumerate(manifest["accuracy"])
    ]
    return {
        "num_heads": num_heads,
        "tree_size": len(manifest["tree"]),
        "expected": list(manifest["expected_tokens"].values())[-1],
        "million_parameters": num_heads * (num_inputs + 1) * width / 1e6,
        "training": manifest["training"],
        "num_sequences": manifest["training"]["num_sequences"],
        "accuracy_rows": "\n".join(rows),
        "tree_rows": "\n".join(f"| {size} | {value:.2f} |" for size, value in manifest["expected_tokens"].items()),
    }


def samples(llm: LLM) -> str:
    """What the model makes of a few prompts, and of a question in its chat template."""
    params = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=90, seed=0)
    outputs = llm.generate(PROMPTS, params)
    lines = [
        f"- **{prompt}**{_line(output.outputs[0].text)}" for prompt, output in zip(PROMPTS, outputs, strict=True)
    ]
    answer = llm.chat([{"role": "user", "content": QUESTION}], params)[0].outputs[0].text
    return "\n".join([*lines, f"- **{QUESTION}** (chat) {_line(answer)}"])


def render(name: str, facts: dict[str, Any]) -> str:
    return (CARDS / f"{name}.md").read_text().format(**facts)


def _line(text: str) -> str:
    """Markdown's own signs stay text, in one line."""
    escaped = "".join(f"\\{sign}" if sign in "*_`#|<>[]" else sign for sign in " ".join(text.split()))
    return f" {escaped}" if text[:1].isspace() else escaped
