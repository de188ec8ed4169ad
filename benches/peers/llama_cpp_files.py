"""llama.cpp by its Python binding, as far as GGUF files need it: logits of a file, and its own quantiser."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path

import llama_cpp
import numpy as np

KV_TYPES = {"f32": 0, "f16": 1}


@llama_cpp.llama_log_callback
def _silent(level: int, text: bytes, user_data: ctypes.c_void_p) -> None:
    pass


class LlamaCppModel:
    """A GGUF file; each prompt runs alone, as one batch, on one thread."""

    def __init__(self, path: Path, longest: int, kv_type: str = "f32") -> None:
        llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise ValueError(f"llama.cpp does not load {path}")
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = longest
        options.n_threads = options.n_threads_batch = 1
        options.type_k = options.type_v = KV_TYPES[kv_type]
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self.vocabulary)

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """[T, V], float32."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index], batch.logits[index] = int(token), index, True
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
        code = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if code:
            raise ValueError(f"llama_decode gave {code}")
        pointer = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(pointer, (len(tokens), self.vocab_size)).copy()

    def tokens(self, text: str) -> list[int]:
        """Without a BOS, special tokens as text."""
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocabulary, raw, len(raw), room, len(room), False, False)
        return list(room[:count])

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def quantize(source: Path, target: Path, file_type: int, importance: Mapping[str, np.ndarray] | None) -> None:
    """llama.cpp's own quantiser, from a float file; `importance` by GGUF's names."""
    llama_cpp.llama_log_set(_silent, ctypes.c_void_p(0))
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.nthread = file_type, 1
    if importance is not None:
        rows = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in importance.items()]
        entries = (llama_cpp.llama_model_imatrix_data * (len(rows) + 1))()  # the last one, empty, ends the list
        for entry, (name, values) in zip(entries, rows, strict=False):
            entry.name, entry.size = name, values.size
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        options.imatrix = entries
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(options))
    if code:
        raise ValueError(f"llama_model_quantize gave {code}")
