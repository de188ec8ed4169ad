"""Random weights of a preset's shape as an OpenVINO model: openvino_export.py CONFIG_JSON TOKENIZER KIND FOLDER.

Runs where `optimum-intel[openvino]` and `nncf` are installed. OpenVINO GenAI's own GGUF reader could not compile such
a file ("ReadValue contains dead weak ptr"), so its exporter makes the model: int4 in groups of 32, symmetric, every
matrix (Q4_0), or int8 by channel (Q8_0), as its users have it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

FORMATS = {
    "Q4_0": ["--weight-format", "int4", "--group-size", "32", "--sym", "--ratio", "1.0"],
    "Q8_0": ["--weight-format", "int8"],
}
MODELS = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}


def main() -> None:
    config, tokenizer, kind, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Path(sys.argv[4])
    make_config, make_model = MODELS[config.pop("model_type")]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        source = Path(work, "source")
        make_model(make_config(**config)).save_pretrained(source)
        for file in tokenizer.glob("tokenizer*.json"):
            shutil.copy(file, source)
        exporter = Path(sys.executable).with_name("optimum-cli")
        task = ["--task", "text-generation-with-past"]
        made = Path(work, "made")
        subprocess.run([exporter, "export", "openvino", "-m", source, *task, *FORMATS[kind], made], check=True)
        made.rename(folder)


if __name__ == "__main__":
    main()
