"""One layer's matrices, from float rows to what the file holds, by any of the methods.

Every method treats the rows of a matrix apart from each other, so a matrix is read, rounded and multiplied in blocks
of rows; whole, there are only its codes. Stages run in order, so that GPTQ sees the inputs that matrices quantised
before make (true-sequential); scales of AWQ and SmoothQuant are found on the float layer first, because they change
the matrices of earlier stages.
Shape letters: N outputs (rows), K inputs (columns).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivace.formats.quantize_rtn import encode
from vivace.formats.quantized_matrix import QuantizedMatrix
from vivace.formats.safetensors_writer import WritableTensor
from vivace.quantize.awq import search_clip, search_scale
from vivace.quantize.decoder_layer import STAGES, DecoderLayer, Floats, StageName
from vivace.quantize.folding import STAGE_NORMS, STAGE_PRODUCERS, LayerScaling, shared_by_heads
from vivace.quantize.gptq import InputHessian, gptq
from vivace.quantize.grid import round_rows_to_int8, round_to_nearest, stacked
from vivace.quantize.layer_pass import LayerPass, Scratch
from vivace.quantize.options import INT8_METHODS, PER_ROW, QuantizeOptions
from vivace.quantize.packing import pack
from vivace.quantize.smoothquant import smoothing_scale
from vivace.quantize.source_model import SourceModel
from vivace.quantize.statistics import InputStatistics, accumulate_hessian, observe

FLOAT_BITS = 16
UNCLIPPED = frozenset({"q", "k"})  # AWQ's authors: clipping them is measured on outputs that softmax reads otherwise

BitsOf = Callable[[int, StageName], int]
Statistics = dict[StageName, InputStatistics]


@dataclass(frozen=True, slots=True)
class LayerOutput:
    """A layer's tensors as the file holds them, and the bits of each of its modules (None: float)."""

    tensors: dict[str, WritableTensor]
    bits_of_module: dict[str, int | None]


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Hidden states [T, D] before and after the layer, and room for what lies between."""

    hidden_TD: Floats
    output_TD: Floats
    scratch: Scratch


class LayerQuantizer:
    """Quantises layers of one model by one set of options. `bits_of` says how many bits a stage's matrices get; 16
    leaves them float."""

    def __init__(self, model: SourceModel, options: QuantizeOptions, bits_of: BitsOf, directory: Path) -> None:
        self.model, self.options, self.bits_of, self.directory = model, options, bits_of, directory

    def quantize(self, layer: int, activations: Activations | None) -> LayerOutput:
        """`activations` None: the method needs none. Else their output is what the quantised layer makes."""
        statistics: Statistics = {}
        scaling = LayerScaling(self.model, layer)
        if activations is not None and self.options.method in ("awq", "smoothquant"):
            statistics = float_statistics(self.model, layer, activations)
            scaling = self._scaling(layer, statistics)
        run = None
        if activations is not None:
            description = DecoderLayer(self.model.spec, layer, scaling.layer_vectors())
            run = LayerPass(description, activations.hidden_TD, activations.output_TD, activations.scratch)
        output = LayerOutput(self._vectors(scaling), {})
        for stage, matrices in STAGES.items():
            hessian = self._hessian(run, stage, layer) if run is not None else None
            rounded = {
                matrix: self._matrix(scaling, matrix, stage, hessian, statistics.get(stage), run)
                for matrix in matrices
            }
            self._pack(scaling, rounded, output)
            if run is not None:
                run.complete(stage)
        return output

    def _hessian(self, run: LayerPass, stage: StageName, layer: int) -> InputHessian | None:
        """Of the stage's inputs, in a mapped file; None for methods that need none."""
        if self.options.method not in ("gptq", "mixed") or not self._is_rounded(layer, stage, STAGES[stage][0]):
            return None
        num_inputs = self.model.layer_shapes[STAGES[stage][0]][1]
        path = self.directory / "scratch-hessian.f64"
        hessian_KK = np.memmap(path, np.float64, "w+", shape=(num_inputs, num_inputs))
        path.unlink()  # the mapping keeps it
        accumulate_hessian(run.inputs(stage), hessian_KK)
        return InputHessian(hessian_KK, self.options.damping, self.options.act_order)

    def _is_rounded(self, layer: int, stage: StageName, matrix: str) -> bool:
        name = self.model.source(matrix, layer).name
        return self.bits_of(layer, stage) < FLOAT_BITS and not self.options.skips(layer, name)

    def _matrix(
        self,
        scaling: LayerScaling,
        matrix: str,
        stage: StageName,
        hessian: InputHessian | None,
        statistics: InputStatistics | None,
        run: LayerPass | None,
    ) -> QuantizedMatrix | None:
        """The rounded matrix, block by block, each run over all tokens; None where it stays float."""
        is_rounded = self._is_rounded(scaling.layer, stage, matrix)
        bits = self.bits_of(scaling.layer, stage)
        parts = []
        for rows in self.model.row_blocks(matrix):
            weights_NK = scaling.weights(matrix, rows)
            if is_rounded:
                columns_K = scaling.columns.get(matrix)
                parts.append(self._rounded(matrix, weights_NK, bits, hessian, statistics, columns_K))
                weights_NK = parts[-1].dequantize()
            if run is not None:
                run.apply(matrix, rows, weights_NK)
        return stacked(parts) if is_rounded else None

    def _rounded(
        self,
        matrix: str,
        weights_NK: Floats,
        bits: int,
        hessian: InputHessian | None,
        statistics: InputStatistics | None,
        columns_K: Floats | None,
    ) -> QuantizedMatrix:
        if self.options.method in INT8_METHODS:
            return round_rows_to_int8(weights_NK)
        group_size, symmetric = self._group_size(weights_NK), self.options.symmetric
        if hessian is not None:
            return gptq(weights_NK, hessian, bits, group_size, symmetric)
        shrink_NG = None
        if statistics is not None and matrix not in UNCLIPPED:
            sample_RK = statistics.sample_RK if columns_K is None else statistics.sample_RK / columns_K
            shrink_NG = search_clip(weights_NK, sample_RK, bits, group_size, symmetric)
        return round_to_nearest(weights_NK, bits, group_size, symmetric, shrink_NG)

    def _group_size(self, weights_NK: Floats) -> int:
        num_inputs = weights_NK.shape[1]
        return num_inputs if self.options.group_size == PER_ROW else self.options.group_size

    def _scaling(self, layer: int, statistics: Statistics) -> LayerScaling:
        """AWQ's scales of all four stages, or SmoothQuant's of the two behind norms."""
        scaling = LayerScaling(self.model, layer)
        for stage, norm in STAGE_NORMS.items():
            if all(self._is_rounded(layer, stage, matrix) for matrix in STAGES[stage]):
                scale_K = self._scale(layer, stage, statistics[stage], statistics[stage].mean_abs_K)
                scaling.fold_into_norm(norm, STAGES[stage], scale_K)
        for stage, producer in STAGE_PRODUCERS.items() if self.options.method == "awq" else ():
            if self._is_rounded(layer, stage, STAGES[stage][0]):
                mean_K = statistics[stage].mean_abs_K
                mean_K = shared_by_heads(self.model, mean_K) if stage == "o" else mean_K
                scaling.fold_into_rows(producer, stage, self._scale(layer, stage, statistics[stage], mean_K))
        return scaling

    def _scale(self, layer: int, stage: StageName, statistics: InputStatistics, mean_abs_K: Floats) -> Floats:
        if self.options.method == "smoothquant":
            largest_K = np.max([np.abs(block).max(axis=0) for block in self._blocks(layer, stage)], axis=0)
            return smoothing_scale(statistics.absmax_K, largest_K, self.options.alpha)
        bits, symmetric = self.bits_of(layer, stage), self.options.symmetric

        def rounded(weights_NK: Floats) -> Floats:
            return round_to_nearest(weights_NK, bits, self._group_size(weights_NK), symmetric).dequantize()

        return search_scale(self._blocks(layer, stage), mean_abs_K, statistics.sample_RK, rounded)

    def _blocks(self, layer: int, stage: StageName) -> Iterator[Floats]:
        """All rows of a stage's matrices, as the file has them."""
        for matrix in STAGES[stage]:
            for rows in self.model.row_blocks(matrix):
                yield self.model.values(matrix, layer, rows)

    def _vectors(self, scaling: LayerScaling) -> dict[str, WritableTensor]:
        """Norms and biases, with what was folded into them."""
        model, layer = self.model, scaling.layer
        return {
            model.source(name, layer).name: scaling.vectors.get(name, model.stored(name, layer))
            for name, shape in model.layer_shapes.items()
            if len(shape) == 1
        }

    def _pack(
        self, scaling: LayerScaling, rounded: Mapping[str, QuantizedMatrix | None], output: LayerOutput
    ) -> None:
        """A stage's matrices; parts of a fused one (q, k, v of Phi-3) are put together as the file had them."""
        fused: dict[str, list[str]] = {}
        for matrix in rounded:
            fused.setdefault(self.model.source(matrix, scaling.layer).name, []).append(matrix)
        for name, parts in fused.items():
            matrices = [one for part in parts if (one := rounded[part]) is not None]
            output.bits_of_module[name.removesuffix(".weight")] = matrices[0].bits if matrices else None
            if matrices:
                whole = matrices[0] if len(matrices) == 1 else stacked(matrices)
                output.tensors.update(pack(self.options, name, whole))
            else:
                output.tensors[name] = self._float_matrix(scaling, name, parts)

    def _float_matrix(self, scaling: LayerScaling, name: str, parts: list[str]) -> WritableTensor:
        """As it is stored, or, where a scale was folded into it, encoded alike."""
        stored = self.model.checkpoint.tensor(name)
        if not any(scaling.changes(part) for part in parts):
            return stored
        blocks = [scaling.weights(part, rows) for part in parts for rows in self.model.row_blocks(part)]
        return encode(np.concatenate(blocks), stored.encoding, name)


def float_statistics(model: SourceModel, layer: int, activations: Activations) -> Statistics:
    """What the inputs of each stage look like in the float layer; writes its outputs."""
    description = DecoderLayer(model.spec, layer, model.vectors(layer))
    run = LayerPass(description, activations.hidden_TD, activations.output_TD, activations.scratch)
    statistics: Statistics = {}

    def seen(stage: StageName) -> None:
        statistics[stage] = observe(run.inputs(stage), len(activations.hidden_TD))

    run.run(lambda matrix, rows: model.values(matrix, layer, rows), model.row_blocks, seen)
    return statistics
