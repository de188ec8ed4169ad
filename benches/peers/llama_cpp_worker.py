"""llama.cpp as a contender, by its C interface: llama_cpp_worker.py FILE.gguf THREADS MAX_LEN [KV_TYPE].

Flash attention on, weights repacked at load as it does by default, batches of 512 tokens.
"""

from __future__ import annotations

import ctypes
import sys
import time

import llama_cpp as llama
import numpy as np
from work import Speed, Work, serve

BATCH = 512
KV_TYPES = {"f16": llama.GGML_TYPE_F16, "q8_0": llama.GGML_TYPE_Q8_0, "q4_0": llama.GGML_TYPE_Q4_0}


class Context:
    def __init__(self, path: str, threads: int, max_len: int, kv_type: str) -> None:
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.threads, self.max_len, self.kv_type = threads, max_len, KV_TYPES[kv_type]
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.context = None
        self.batch = llama.llama_batch_init(BATCH, 0, 1)

    def open(self, work: Work) -> None:
        """A context with room for this work alone: its cache is cut into equal parts for the streams."""
        if self.context is not None:
            llama.llama_free(self.context)
        params = llama.llama_context_default_params()
        params.n_ctx = work.num_streams * (work.prompt_len + work.output_len)
        params.n_batch = params.n_ubatch = BATCH
        params.n_seq_max = work.num_streams
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1
        params.type_k = params.type_v = self.kv_type
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")

    def decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """One batch of (token, position, sequence, wants logits)."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for index, (token, position, sequence, wants) in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wants
        if llama.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")

    def greedy(self, index: int) -> int:
        logits = llama.llama_get_logits_ith(self.context, index)
        return int(
            np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.vocab_size,)).argmax()
        )


def main() -> None:
    path, threads, max_len, *kv = sys.argv[1:]
    context = Context(path, int(threads), int(max_len), kv[0] if kv else "f16")

    def measure(work: Work, seed: int) -> Speed:
        context.open(work)
        prompts = work.prompts(context.vocab_size, seed)
        last = work.prompt_len - 1
        rows = [
            (token, place, stream, place == last)
            for stream, prompt in enumerate(prompts)
            for place, token in enumerate(prompt)
        ]
        started = time.perf_counter()
        tokens = [0] * work.num_streams
        for first in range(0, len(rows), BATCH):
            part = rows[first : first + BATCH]
            context.decode(part)
            for index, (_, _, stream, wants) in enumerate(part):
                if wants:
                    tokens[stream] = context.greedy(index)
        prefilled = time.perf_counter()
        for step in range(work.output_len - 1):
            context.decode([(token, work.prompt_len + step, stream, True) for stream, token in enumerate(tokens)])
            tokens = [context.greedy(index) for index in range(work.num_streams)]
        ended = time.perf_counter()
        num_decoded = work.num_streams * (work.output_len - 1)
        decode = num_decoded / (ended - prefilled) if num_decoded else None
        return Speed(len(rows) / (prefilled - started), decode)

    serve(measure)


if __name__ == "__main__":
    main()
