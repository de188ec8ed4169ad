"""How a compressed-tensors checkpoint says which modules are quantised in which way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from vivace.formats.name_pattern import NamePattern
from vivace.formats.scheme_fields import SchemeFields

BITS = (4, 8)
FORMAT_OF_ACTIVATIONS = {"group": "pack-quantized", "token": "int-quantized"}
FORMATS = ("pack-quantized", "int-quantized", "float-quantized")
_ADVICE = (
    "requantise as W4A16, W8A16 (pack-quantized), W8A8 (int-quantized) or FP8 with dynamic activations "
    "(float-quantized), or use a GGUF file"
)
_PATTERN_MARK = "re:"
_CLASS = "Linear"
_TABLES = ("embed_tokens",)  # the one kind of matrix that is no Linear


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """One of a checkpoint's groups. `group_size` None means one group a row.

    `activations`: `token` is W8A8 with one dynamic scale a token, `group` weights alone. `is_float`: weights are e4m3
    numbers with a scale a row, activations too where they are quantised.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    activations: Literal["group", "token"] = "group"
    targets: tuple[str, ...] = (_CLASS,)
    has_activation_order: bool = False
    is_packed: bool = True
    is_one_scale: bool = False  # for the whole matrix
    is_float: bool = False

    def to_config(self) -> dict[str, Any]:
        """The group as `config_groups` lists it."""
        weights: dict[str, Any] = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if self.group_size is None else "group",
            "group_size": self.group_size,
            "dynamic": False,
            "actorder": "group" if self.has_activation_order else None,
        }
        tokens = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
        return {
            "targets": list(self.targets),
            "weights": weights,
            "input_activations": tokens if self.activations == "token" else None,
            "output_activations": None,
            "format": FORMAT_OF_ACTIVATIONS[self.activations],
        }


@dataclass(frozen=True, slots=True)
class SchemeGroups:
    """Schemes with the patterns of their targets; a module takes the first that fits: by name, pattern, class."""

    schemes: tuple[WeightScheme, ...]
    patterns: tuple[tuple[NamePattern, WeightScheme], ...]

    def for_module(self, module: str) -> WeightScheme | None:
        by_name = (scheme for scheme in self.schemes if module in scheme.targets)
        by_pattern = (scheme for pattern, scheme in self.patterns if pattern.fits(module))
        by_class = (scheme for scheme in self.schemes if _CLASS in scheme.targets and not module.endswith(_TABLES))
        for matches in (by_name, by_pattern, by_class):
            if (scheme := next(matches, None)) is not None:
                return scheme
        return None


def read_scheme_groups(fields: SchemeFields) -> SchemeGroups:
    """From a `quantization_config`. Raises ModelFileError naming what is not understood.

    `ignore` needs no reading: what it names is stored as floats. A `kv_cache_scheme` is left to --kv-cache-dtype.
    """
    _refuse_transforms(fields)
    status = fields.word("quantization_status", "compressed")
    fields.refuse_unless("quantization_status", status, ("compressed",), "save it compressed (save_compressed=True)")
    default = fields.word("format", "mixed-precision")
    fields.refuse_unless("format", default, (*FORMATS, "mixed-precision"), _ADVICE)
    groups = fields.section("config_groups")
    if groups is None or not groups.values:
        raise fields.error("config_groups", f"is missing or empty; {_ADVICE}")
    schemes = tuple(_weight_scheme(_group(groups, name), default) for name in groups.values)
    where = f"{fields.where}config_groups"
    patterns = tuple(
        (NamePattern.parse(target.removeprefix(_PATTERN_MARK), fields.path, where), scheme)
        for scheme in schemes
        for target in scheme.targets
        if target.startswith(_PATTERN_MARK)
    )
    return SchemeGroups(schemes, patterns)


def _refuse_transforms(fields: SchemeFields) -> None:
    sparsity = fields.section("sparsity_config")
    if sparsity is not None and sparsity.values:
        sparsity.refuse_unless("format", sparsity.word("format", "dense"), ("dense",), _ADVICE)
    for key in ("transform_config", "moe_sparsity_config"):
        if fields.get(key):
            raise fields.error(key, f"checkpoints with {key} are not supported; {_ADVICE}")


def _group(groups: SchemeFields, name: str) -> SchemeFields:
    if isinstance(groups.get(name), list):
        raise groups.error(name, f"names a preset scheme instead of describing one; {_ADVICE}")
    group = groups.section(name)
    if group is None:
        raise groups.error(name, "must be an object")
    return group


def _weight_scheme(group: SchemeFields, default_format: str) -> WeightScheme:
    layout = group.word("format", default_format)
    group.refuse_unless("format", layout, FORMATS, _ADVICE)
    if "output_activations" in group:
        raise group.error("output_activations", f"quantised outputs are not supported; {_ADVICE}")
    weights = group.section("weights")
    if weights is None:
        raise group.error("weights", f"is missing: only quantised weights can be read; {_ADVICE}")
    is_float = layout == "float-quantized"
    kind = "float" if is_float else "int"
    weights.refuse_unless("type", weights.word("type", "int"), (kind,), _ADVICE)
    bits = weights.integer("num_bits", 8)
    weights.refuse_unless("num_bits", bits, (8,) if is_float else BITS, _ADVICE)
    group_size = weights.group_size(default=-1)
    strategy = weights.word("strategy", "channel" if group_size is None else "group")
    strategies = ("channel", "tensor") if is_float else ("channel", "group", "tensor")
    weights.refuse_unless("strategy", strategy, strategies, _ADVICE)
    if (strategy == "group") != (group_size is not None):
        raise weights.error("group_size", f"{group_size} does not go with strategy {strategy}")
    order = weights.get("actorder")
    weights.refuse_unless("actorder", order, (None, False, True, "weight", "static", "group", "dynamic"), _ADVICE)
    return WeightScheme(
        bits=bits,
        group_size=group_size,
        symmetric=weights.flag("symmetric", True),
        activations=_activations(group.section("input_activations"), bits, strategy, kind),
        targets=group.strings("targets"),
        has_activation_order=order in (True, "group", "dynamic"),
        is_packed=layout == "pack-quantized",
        is_one_scale=strategy == "tensor",
        is_float=is_float,
    )


def _activations(inputs: SchemeFields | None, bits: int, strategy: str, kind: str) -> Literal["group", "token"]:
    """`token` for W8A8 with scales by row. Finer weights take int8 activations in groups of 32: never coarser."""
    if inputs is None:
        return "group"
    inputs.refuse_unless("type", inputs.word("type", "int"), (kind,), _ADVICE)
    inputs.refuse_unless("num_bits", inputs.integer("num_bits", 8), (8,), _ADVICE)
    if kind == "float":  # static scales too: a token's own is finer, clips nothing, and is what the products take
        return "token"
    advice = "static scales would clip what calibration did not see: requantise with dynamic activations, one a token"
    inputs.refuse_unless("dynamic", inputs.get("dynamic"), (True,), advice)
    inputs.refuse_unless("symmetric", inputs.flag("symmetric", True), (True,), _ADVICE)
    inputs.refuse_unless("strategy", inputs.word("strategy", "token"), ("token",), _ADVICE)
    return "token" if bits == 8 and strategy != "group" else "group"
