"""Vivace as a contender: vivace_worker.py CONFIG QUANTIZATION|FILE.gguf THREADS MAX_LEN [KV_DTYPE]."""

from __future__ import annotations

import sys
import time

from work import Speed, Work, serve

from vivace.bench.metrics import rates
from vivace.bench.timeline import run
from vivace.bench.workload import Workload
from vivace.engine.llm import LLM


def main() -> None:
    config, kind, threads, max_len, *kv = sys.argv[1:]
    options = {"num_threads": int(threads), "max_model_len": int(max_len), "max_num_seqs": 32}
    options["kv_cache_dtype"] = kv[0] if kv else "auto"
    if kind.endswith(".gguf"):
        llm = LLM(kind, **options)
    else:
        llm = LLM(load_format="dummy", config=config, quantization=kind, **options)

    def measure(work: Work, seed: int) -> Speed:
        workload = Workload(work.num_streams, work.prompt_len, work.output_len)
        prompts = work.prompts(llm.loaded.spec.vocab_size, seed)
        speeds = rates(run(llm.engine, workload, prompts, time.perf_counter))
        return Speed(speeds.prefill_tokens_per_s, speeds.decode_tokens_per_s)

    serve(measure)


if __name__ == "__main__":
    main()
