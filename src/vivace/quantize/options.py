"""What a quantisation is asked to do, checked once; each method has defaults of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from vivace.core.errors import ConfigError
from vivace.quantize.gguf_mixture import FILE_TYPES

Method = Literal["rtn", "w8a8", "llm-int8", "smoothquant", "gptq", "awq", "gguf", "mixed"]
Format = Literal["gptq", "awq", "compressed-tensors", "bitsandbytes", "gguf", "dense"]

FORMATS: dict[Method, tuple[Format, ...]] = {  # the first one is the default
    "rtn": ("compressed-tensors", "gptq", "awq", "dense"),
    "w8a8": ("compressed-tensors", "dense"),
    "llm-int8": ("bitsandbytes", "dense"),
    "smoothquant": ("compressed-tensors", "dense"),
    "gptq": ("gptq", "compressed-tensors", "dense"),
    "awq": ("awq", "compressed-tensors", "dense"),
    "gguf": ("gguf",),
    "mixed": ("compressed-tensors", "dense"),
}
INT8_METHODS = frozenset({"w8a8", "llm-int8", "smoothquant"})
CALIBRATED_METHODS = frozenset({"smoothquant", "gptq", "awq", "gguf", "mixed"})
GROUPED_METHODS = frozenset({"rtn", "gptq", "awq", "mixed"})
FLOAT_FILE_TYPES = frozenset({"F32", "F16", "BF16"})  # of GGUF: nothing to weigh
PER_ROW = -1  # a group size: one scale for all inputs of a row

# Which methods read an option; others refuse it, because it would do nothing.
READ_BY: dict[str, frozenset[str]] = {
    "bits": GROUPED_METHODS - {"mixed"},
    "group_size": GROUPED_METHODS,
    "symmetric": GROUPED_METHODS,
    "damping": frozenset({"gptq", "mixed"}),
    "act_order": frozenset({"gptq", "mixed"}),
    "alpha": frozenset({"smoothquant"}),
    "target_bits": frozenset({"mixed"}),
    "gguf_type": frozenset({"gguf"}),
    "imatrix": frozenset({"gguf"}),
    "save_imatrix": frozenset({"gguf"}),
    "calibration": CALIBRATED_METHODS,
    "num_samples": CALIBRATED_METHODS,
    "seq_len": CALIBRATED_METHODS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeOptions:
    """A whole request. `seq_len` in tokens; `group_size` in inputs, -1 for one scale a row; `alpha` is
    SmoothQuant's; `skip_layers` holds layer numbers and parts of tensor names that stay float."""

    method: Method
    format: Format
    bits: int = 4
    group_size: int = 128
    symmetric: bool = True
    damping: float = 0.01
    act_order: bool = False
    alpha: float = 0.5
    target_bits: float = 4.5
    gguf_type: str = "Q4_K_M"
    skip_layers: tuple[str, ...] = ()
    num_samples: int = 128
    seq_len: int = 512
    seed: int = 0

    @property
    def is_calibrated(self) -> bool:
        is_float = self.method == "gguf" and self.gguf_type in FLOAT_FILE_TYPES
        return self.method in CALIBRATED_METHODS and not is_float

    def skips(self, layer: int, tensor_name: str) -> bool:
        """Whether a matrix stays float."""
        return any(int(part) == layer if part.isdigit() else part in tensor_name for part in self.skip_layers if part)


def quantize_options(method: str, **asked: Any) -> QuantizeOptions:
    """The options of a method, from what was asked (None: not asked).

    Raises ConfigError for an unknown method, an option that the method does not read, or a value that cannot be.
    """
    if method not in FORMATS:
        if method.upper() in FILE_TYPES:
            raise ConfigError(f"{method} is a type of GGUF files: give --method gguf --gguf-type {method.upper()}")
        raise ConfigError(f"--method {method!r:.80} is not known; there are {', '.join(FORMATS)}")
    given = {name: value for name, value in asked.items() if value is not None}
    if "gguf_type" in given:
        given["gguf_type"] = str(given["gguf_type"]).upper()
    for name in given:
        if name in READ_BY and method not in READ_BY[name]:
            users = ", ".join(sorted(READ_BY[name]))
            raise ConfigError(f"--{_flag(name)} does nothing for {method}: it is read by {users}")
    formats = FORMATS[method]
    chosen = given.setdefault("format", formats[0])
    if chosen not in formats:
        raise ConfigError(f"{method} cannot be written as {chosen!r:.80}; it can as {', '.join(formats)}")
    known = {field.name for field in fields(QuantizeOptions)}
    options = QuantizeOptions(method=method, **_defaults(method, chosen) | {k: given[k] for k in given if k in known})
    _check(options)
    _check_importance(options, given)
    return options


def _check_importance(options: QuantizeOptions, given: dict[str, Any]) -> None:
    """An importance file takes the place of calibration, and a file of floats has no use for either."""
    for name in ("imatrix", "save_imatrix"):
        if name in given and not options.is_calibrated:
            raise ConfigError(
                f"--{_flag(name)} does nothing for {options.gguf_type}: nothing is rounded by importance"
            )
    for name in ("calibration", "num_samples", "seq_len", "save_imatrix"):
        if "imatrix" in given and name in given:
            raise ConfigError(f"--imatrix takes the place of calibration: leave --{_flag(name)} out")


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _defaults(method: str, chosen: str) -> dict[str, Any]:
    if method in INT8_METHODS:
        return {"bits": 8, "group_size": PER_ROW}
    return {"symmetric": not (method == "awq" or chosen == "awq")}


def _check(options: QuantizeOptions) -> None:
    if options.bits not in (4, 8):
        raise ConfigError(f"--bits must be 4 or 8, not {options.bits}")
    if options.group_size != PER_ROW and (options.group_size < 32 or options.group_size % 32):
        raise ConfigError(f"--group-size must be a multiple of 32, or -1 for a whole row, not {options.group_size}")
    for name, low, high in (
        ("damping", 0.0, 1.0),
        ("alpha", 0.0, 1.0),
        ("target_bits", 4.0, 16.0),
        ("num_samples", 1, 1 << 20),
        ("seq_len", 8, 1 << 20),
    ):
        value = getattr(options, name)
        if not low <= value <= high:
            raise ConfigError(f"--{_flag(name)} must be from {low} to {high}, not {value}")
    if options.bits == 8 and not options.symmetric:
        raise ConfigError("8 bits are written symmetric: leave --asym out")
    if options.gguf_type not in FILE_TYPES:
        raise ConfigError(f"--gguf-type {options.gguf_type!r:.80} is not known; there are {', '.join(FILE_TYPES)}")
    if options.damping == 0:
        raise ConfigError("--damping must be above 0: without it the Hessian of few tokens has no inverse")
    if options.format == "awq" and (options.bits != 4 or options.symmetric):
        raise ConfigError("awq files hold 4 bits with zero points: give --bits 4 and --asym, or another --format")
