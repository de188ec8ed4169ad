"""OpenVINO GenAI as a contender, on what openvino_export.py made: openvino_worker.py FOLDER THREADS VOCAB_SIZE."""

from __future__ import annotations

import sys
import time

import numpy as np
import openvino
import openvino_genai
from work import Speed, Work, serve


def main() -> None:
    path, threads, vocab_size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    pipeline = openvino_genai.LLMPipeline(path, "CPU", INFERENCE_NUM_THREADS=threads)

    def generate(prompts: list[list[int]], output_len: int) -> tuple[float, float]:
        """(seconds to the first tokens, seconds in all)."""
        config = openvino_genai.GenerationConfig(max_new_tokens=output_len, ignore_eos=True, do_sample=False)
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        started = time.perf_counter()
        result = pipeline.generate(inputs, config)
        total = time.perf_counter() - started
        return result.perf_metrics.get_ttft().mean / 1e3, total

    def measure(work: Work, seed: int) -> Speed:
        first, total = generate(work.prompts(vocab_size, seed), work.output_len)
        num_decoded = work.num_streams * (work.output_len - 1)
        decode = num_decoded / (total - first) if num_decoded else None
        return Speed(work.num_streams * work.prompt_len / first, decode)

    serve(measure)


if __name__ == "__main__":
    main()
