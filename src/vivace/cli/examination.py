"""What `vivace doctor` finds out, as sections of (name, value, reason) rows."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from vivace.backends.cpu.backend import CpuBackend
from vivace.backends.cpu.detect import Machine, detect
from vivace.bench.cost import model_cost
from vivace.core.sampling import SamplingParams
from vivace.engine.llm import LLM
from vivace.engine.loader import LoadedEngine
from vivace.engine.memory import available_memory_bytes
from vivace.models.decoder import build_decoder
from vivace.ops.backend import Backend, MeasuredCeilings
from vivace.ops.program import Linear, Weight

# Kernels that exist, fastest first, and the features that each needs beyond the next slower one (csrc/dispatch.cpp).
KERNEL_SETS: dict[str, tuple[str, ...]] = {
    "avx512_bf16": ("avx512_bf16",),
    "avx512": ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"),
    "avx2": ("avx2", "fma", "f16c"),
    "generic": (),
}
HUGE_PAGES = {
    "always": "every large allocation gets 2 MiB pages",
    "madvise": "weights and the KV cache ask for 2 MiB pages and get them",
    "never": "4 KiB pages only: reading weights costs up to a third more; allow madvise",
}
LAYOUT_NOTES = {
    f"linear {layout}": f"; --quantization {smaller} would read fewer bytes"
    for layout, smaller in (
        ("f32", "int8 or int4"),
        ("bf16", "int8 or int4"),
        ("f16", "int8 or int4"),
        ("q8_0", "int4"),
    )
} | {
    "linear int8_channel": "; activations int8, one scale a token (W8A8): llm_int8 holds where features are outliers",
    "linear fp8_channel": "; activations e4m3, one scale a token (FP8 W8A8)",
    "linear int8_outlier": "; activations int8, one scale a token, from magnitude 6.0 on float32 (LLM.int8)",
}
OTHER_BACKENDS = {
    "reference": "asked for: written for reading, not for speed",
    "cuda": "Triton's kernels where they apply, else torch's operations; decode steps by CUDA graphs on a GPU",
}
CAMEL_HUMP = re.compile(r"(?<=[a-zA-Z])(?=[A-Z][a-z])")
HOST_UNITS = ("f32", "bf16", "int8")
DENSE = "a product of 8192 by torch's libraries"
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    value: object
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    rows: tuple[Row, ...]


def machine_section() -> Section:
    machine = detect()
    quota = "no quota" if machine.quota_cores is None else f"quota of {machine.quota_cores:g}"
    caches = ", ".join(f"L{c.level} {c.num_bytes // 1024} KiB for {c.shared_by}" for c in machine.caches)
    mode = machine.transparent_huge_pages
    return Section(
        "machine",
        (
            Row("processor", machine.processor or "unknown"),
            Row("cores", machine.affinity_cores, quota),
            Row("caches", caches or "unknown"),
            Row("memory", _gib(machine.memory_bytes), f"{_gib(available_memory_bytes())} free"),
            Row("huge_pages", mode or "unknown", HUGE_PAGES.get(mode or "", "")),
            Row("features", " ".join(machine.features)),
        ),
    )


def device_section(loaded: LoadedEngine) -> Section:
    """Where it computes and why; what the GPU is, where it is one."""
    chosen = next(one for one in loaded.choices if one.name == "device")
    rows = [Row("device", chosen.value, chosen.reason)]
    if loaded.backend.name == "cuda":
        from vivace.backends.cuda.backend import CudaBackend

        facts = loaded.backend.facts if isinstance(loaded.backend, CudaBackend) else None
        complaint = loaded.backend.kernels.complaint if isinstance(loaded.backend, CudaBackend) else None
        rows.append(Row("kernels", "torch" if complaint else "triton, where they apply", complaint or ""))
        remarks = loaded.backend.kernels.remarks if isinstance(loaded.backend, CudaBackend) else {}
        rows += [Row(what.replace(" ", "_"), choice, reason) for what, (choice, reason) in remarks.items()]
        if facts is not None:
            rows += [
                Row("name", facts.name, f"compute capability {facts.capability}"),
                Row("memory", _gib(facts.memory_bytes), f"{_gib(facts.free_bytes)} free, the model loaded"),
                Row("torch", facts.torch_version, f"for CUDA {facts.cuda_version}"),
            ]
    return Section("device", tuple(rows))


def ceilings_section(backend: Backend, measured: MeasuredCeilings | None) -> Section:
    """`measured` just now: with all threads, or on the GPU."""
    if measured is None:
        return Section("ceilings", (Row("measured", "no", f"the {backend.name} backend measures nothing"),))
    is_host = isinstance(backend, CpuBackend)
    peaks = measured.operations_per_s
    lacking = [unit for unit in HOST_UNITS if unit not in peaks] if is_host else []
    reading = "memory in huge pages, all threads" if is_host else "the GPU's memory, the faster of a copy and a sum"
    threads = (Row("threads", backend.num_threads),) if isinstance(backend, CpuBackend) else ()
    return Section(
        "ceilings",
        (
            *threads,
            Row("read_gb_per_s", round(measured.read_bytes_per_s / 1e9, 1), reading),
            *(Row(f"{unit}_gop_per_s", round(peak / 1e9), "" if is_host else DENSE) for unit, peak in peaks.items()),
            *(Row(f"{unit}_gop_per_s", 0, f"{getattr(backend, 'isa', '')} has no such unit") for unit in lacking),
        ),
    )


def kernels_section(backend: Backend) -> Section:
    """Which kernels run, and why no faster ones do."""
    if not isinstance(backend, CpuBackend):
        return Section("kernels", (Row("backend", backend.name, OTHER_BACKENDS.get(backend.name, "")),))
    return Section("kernels", tuple(_kernel_rows(backend.isa, detect())))


def gpu_kernels_section(llm: LLM) -> Section:
    """What ran two tokens: kernels where they apply, else torch's operations, and why."""
    from vivace.backends.cuda.backend import CudaBackend

    backend = llm.loaded.backend
    assert isinstance(backend, CudaBackend)  # whoever asks has looked
    llm.generate([[0]], SamplingParams(max_tokens=2, temperature=0.0, ignore_eos=True))
    rows = []
    for line in backend.kernels.explain():
        op, _, choice = line.partition(": ")
        rows.append(Row(op, choice))
    return Section("kernels", tuple(rows) or kernels_section(backend).rows)


def _kernel_rows(chosen: str, machine: Machine) -> Iterable[Row]:
    faster = True
    for name, needs in KERNEL_SETS.items():
        missing = [feature for feature in needs if feature not in machine.features]
        if name == chosen:
            faster = False
            yield Row(name, "used")
        elif name in machine.instruction_sets:
            yield Row(name, "not used", f"--instruction-set {chosen} was given" if faster else f"{chosen} is faster")
        else:
            yield Row(name, "not used", f"the processor lacks {', '.join(missing) or 'what it builds on'}")


def operations_section(loaded: LoadedEngine) -> Section:
    """Each operation of a step, how often it runs, and what runs it; products by the layout of their weights."""
    counts: Counter[str] = Counter()
    for op in build_decoder(loaded.spec, loaded.parameters, loaded.engine.config.max_model_len).ops:
        if isinstance(op, Linear):
            counts.update(f"linear {weight.layout}" for weight in op.weights)
        else:
            counts[CAMEL_HUMP.sub("_", type(op).__name__).lower()] += 1
    backend = loaded.backend
    kernel = f"{backend.name} {backend.isa}" if isinstance(backend, CpuBackend) else backend.name
    rows = (Row(name, count, kernel + LAYOUT_NOTES.get(name, "")) for name, count in counts.items())
    return Section("operations", tuple(rows))


def choices_section(loaded: LoadedEngine) -> Section:
    return Section("choices", tuple(Row(one.name, one.value, one.reason) for one in loaded.choices))


def fit_section(loaded: LoadedEngine, measured: MeasuredCeilings | None) -> Section:
    """What the model takes, how much context fits beside it, and how fast one stream could be at most."""
    config, kv_bytes = loaded.engine.config, loaded.kv_spec.bytes_per_token
    num_tokens = config.num_kv_blocks * config.block_size
    embedding: Weight = loaded.parameters.token_embedding
    tied = "shared with the output matrix" if loaded.spec.tied_embeddings else ""
    cost = model_cost(loaded.spec, loaded.parameters, loaded.kv_spec)
    recent_bytes = loaded.kv_spec.recent_bytes_per_block
    recent = Row(
        "kv_recent_bytes", recent_bytes, "for each running sequence: keys of the block in progress, in 16 bits"
    )
    limit = () if measured is None else (_decode_limit(measured.read_bytes_per_s / cost.matrix_bytes),)
    return Section(
        "memory",
        (
            Row("weights", _mib(loaded.weight_bytes), f"{_mib(cost.matrix_bytes)} read for each decode step"),
            Row("embeddings", _mib(embedding.num_bytes), tied),
            Row("kv_bytes_per_token", kv_bytes, config.kv_cache_dtype),
            *((recent,) if recent_bytes else ()),
            Row("kv_cache", _mib(config.num_kv_blocks * loaded.kv_spec.bytes_per_block), "taken as it is written"),
            Row("kv_tokens", num_tokens, f"{num_tokens / config.max_model_len:.1f} full contexts"),
            *limit,
        ),
    )


def _decode_limit(tokens_per_s: float) -> Row:
    return Row("decode_limit_tokens_per_s", round(tokens_per_s, 1), "one stream, weights read at the measured speed")


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB"


def _mib(num_bytes: int) -> str:
    return f"{num_bytes / 2**20:.1f} MiB"
