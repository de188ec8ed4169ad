"""A whole quantisation, from a float checkpoint to a folder (or GGUF file) that others read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vivace.core.errors import ConfigError
from vivace.engine.tokenizer import load_tokenizer
from vivace.formats.dequantize import dequantize
from vivace.formats.fingerprint import checkpoint_fingerprint
from vivace.formats.safetensors import SafetensorsFile
from vivace.formats.safetensors_writer import WritableTensor, write_safetensors
from vivace.quantize.bit_budget import BitPlan, Candidate, allocate, stored_bits
from vivace.quantize.calibration import Calibration, load_calibration
from vivace.quantize.decoder_layer import STAGES, Floats, StageName
from vivace.quantize.embedding import embed
from vivace.quantize.gguf_export import export_gguf, gguf_importance
from vivace.quantize.gguf_imatrix import ImportanceMatrix
from vivace.quantize.importance_files import ImportanceFiles
from vivace.quantize.layer_pass import Scratch
from vivace.quantize.layer_quantizer import Activations, LayerOutput, LayerQuantizer, float_statistics
from vivace.quantize.options import INT8_METHODS, PER_ROW, QuantizeOptions
from vivace.quantize.output_files import (
    copy_companions,
    num_weight_bytes,
    shard_name,
    write_config,
    write_index,
    write_rest,
)
from vivace.quantize.packing import check_shape, quantization_config
from vivace.quantize.run_directory import LayerRecord, RunDirectory, checksum
from vivace.quantize.sensitivity import Divergences, measure_sensitivity
from vivace.quantize.source_model import SourceModel

PLAN_NAME = "bits.json"
Progress = Callable[[str, int, int], None]  # (stage of the work, done, total)


@dataclass(frozen=True, slots=True)
class QuantizationResult:
    """What was written. `mean_bits` counts the layers' matrices, scales included (None: a GGUF file's own mixture);
    `data` says what was calibrated on."""

    output: Path
    source_bytes: int
    output_bytes: int
    mean_bits: float | None
    bits_of_module: dict[str, int | None]
    data: str


def quantize_model(
    model: str | None,
    output: Path,
    options: QuantizeOptions,
    *,
    calibration: str | None = None,
    imatrix: Path | None = None,
    save_imatrix: Path | None = None,
    progress: Progress | None = None,
) -> QuantizationResult:
    """Quantises `model` (None: the embedded one) into the new folder, or GGUF file, `output`.

    For GGUF files: `imatrix` is read instead of calibrating, `save_imatrix` gets what calibration found.

    Raises ConfigError for a request that cannot be met, ModelFileError for a broken model.
    """
    if (options.format == "gguf") != (output.suffix.lower() == ".gguf"):
        raise ConfigError(
            f"{output}: a GGUF file's name ends with .gguf"
            if options.format == "gguf"
            else f"{output}: {options.format} makes a folder; a GGUF file comes of --method gguf"
        )
    if save_imatrix == output:
        raise ConfigError(f"{output} cannot be both the model and its importance: name two files")
    importance = ImportanceFiles(imatrix, save_imatrix)
    with np.errstate(over="ignore", invalid="ignore"), SourceModel(model) as source:  # checked layer by layer
        data = None
        if options.is_calibrated and importance.given is None:
            window = min(options.seq_len, source.spec.max_position_embeddings)
            tokenizer = load_tokenizer(source.directory)
            data = load_calibration(
                tokenizer, calibration, num_samples=options.num_samples, seq_len=window, seed=options.seed
            )
        return _Quantization(source, output, options, data, importance, progress or _unseen).run()


def _unseen(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""
    del stage, done, total


class _Quantization:
    def __init__(
        self,
        model: SourceModel,
        output: Path,
        options: QuantizeOptions,
        data: Calibration | None,
        importance: ImportanceFiles,
        progress: Progress,
    ) -> None:
        self.model, self.options, self.progress = model, options, progress
        self.data, self.importance = data, importance
        self._check_shapes()
        if importance.given is not None:
            gguf_importance(model.directory, importance.given.importance)  # refuses another model's
        asked = {
            "options": asdict(options) | {"skip_layers": list(options.skip_layers)},
            "model": checkpoint_fingerprint(model.checkpoint),
            "data": importance.checksum if data is None else data.checksum,
        }
        self.directory = RunDirectory(output, asked)

    def run(self) -> QuantizationResult:
        plan = self._plan()
        self._layers(plan)
        return self._finish(plan)

    def _check_shapes(self) -> None:
        """Refuses what the format cannot hold, and skips that name nothing, before any work."""
        names = {
            self.model.source(matrix, layer).name: layer
            for layer in range(self.model.spec.num_layers)
            for matrices in STAGES.values()
            for matrix in matrices
        }
        for part in self.options.skip_layers:
            if not any(layer == int(part) if part.isdigit() else part in name for name, layer in names.items()):
                raise ConfigError(f"--skip-layers {part!r:.80} names no layer and no matrix of this model")
        for matrix, shape in self.model.layer_shapes.items():
            name = self.model.source(matrix, 0).name
            if len(shape) == 2 and not self.options.skips(-1, name):
                check_shape(self.options, name, shape)

    # -- mixed precision

    def _plan(self) -> dict[tuple[int, StageName], int]:
        """Bits of each stage of each layer."""
        keys = [(layer, stage) for layer in range(self.model.spec.num_layers) for stage in STAGES]
        if self.options.method != "mixed":
            return dict.fromkeys(keys, self.options.bits)
        known = self.directory.read_json(PLAN_NAME)
        if known is None:
            known = list(self._allocated(keys).bits)
            self.directory.write_json(PLAN_NAME, known)
        if not isinstance(known, list) or len(known) != len(keys) or any(bits not in (4, 8, 16) for bits in known):
            raise self.directory.damaged(PLAN_NAME, f"it must list 4, 8 or 16 bits for {len(keys)} stages")
        return dict(zip(keys, known, strict=True))

    def _allocated(self, keys: list[tuple[int, StageName]]) -> BitPlan:
        assert self.data is not None
        divergences: Divergences = measure_sensitivity(
            self.model,
            self.data.token_ids_SL,
            self._group_size,
            self.options.symmetric,
            self.directory.path,
            lambda done, total: self.progress("layers weighed", done, total),
        )
        candidates, stored = [], []
        for layer, stage in keys:
            widths = {bits: divergences[layer, stage, bits] for bits in (4, 8)}
            candidates.append(Candidate(self._num_weights(stage), widths))
            stored.append({bits: self._stored_bits(stage, bits) for bits in (4, 8, 16)})
        return allocate(candidates, list(stored), self.options.target_bits)

    def _num_weights(self, stage: StageName) -> int:
        return sum(int(np.prod(self.model.layer_shapes[matrix])) for matrix in STAGES[stage])

    def _group_size(self, num_inputs: int) -> int:
        return num_inputs if self.options.group_size == PER_ROW else self.options.group_size

    def _stored_bits(self, stage: StageName, bits: int) -> float:
        num_inputs = self.model.layer_shapes[STAGES[stage][0]][1]
        if self.options.method in INT8_METHODS and bits == 8:
            return bits + 32 / num_inputs  # a float32 scale a row
        return stored_bits(bits, num_inputs, self._group_size(num_inputs), self.options.symmetric)

    # -- layers

    def _layers(self, plan: dict[tuple[int, StageName], int]) -> None:
        num_layers, done = self.model.spec.num_layers, len(self.directory.layers)
        if done == num_layers or (self.options.format == "gguf" and self.data is None):
            return
        self.progress("layers", done, num_layers)
        hidden = self._first_hidden(done)
        scratch = None
        if self.data is not None:
            scratch = Scratch(self.directory.path, self.model.spec, *self.data.token_ids_SL.shape)
        quantizer = LayerQuantizer(self.model, self.options, lambda *key: plan[key], self.directory.path)
        for layer in range(done, num_layers):
            if hidden is None or scratch is None:
                self._commit(layer, quantizer.quantize(layer, None), "")
            else:
                name = f"hidden-{layer + 1:05}.f32"
                output = np.memmap(self.directory.path / name, np.float32, "w+", shape=hidden.shape)
                result = self._layer(quantizer, layer, Activations(hidden, output, scratch))
                output.flush()
                self._commit(layer, result, name)
                hidden = output
            self.progress("layers", layer + 1, num_layers)
        if scratch is not None:
            scratch.close()

    def _layer(self, quantizer: LayerQuantizer, layer: int, activations: Activations) -> LayerOutput:
        if self.options.method != "gguf":
            return quantizer.quantize(layer, activations)
        statistics = float_statistics(self.model, layer, activations)
        importance: dict[str, WritableTensor] = {
            self.model.source(matrix, layer).name: statistics[stage].mean_square_K
            for stage, matrices in STAGES.items()
            for matrix in matrices
        }
        return LayerOutput(importance, {})

    def _first_hidden(self, done: int) -> Floats | None:
        """The inputs of layer `done`: the embedded tokens, or what the run before left."""
        if self.data is None:
            return None
        shape = (self.data.num_tokens, self.model.spec.hidden_size)
        if done:
            return np.memmap(self.directory.path / self.directory.layers[-1].hidden, np.float32, "r", shape=shape)
        hidden = np.memmap(self.directory.path / "hidden-00000.f32", np.float32, "w+", shape=shape)
        embed(self.model, self.data.token_ids_SL, hidden)
        return hidden

    def _commit(self, layer: int, result: LayerOutput, hidden: str) -> None:
        shard = shard_name(layer, self.model.spec.num_layers)
        write_safetensors(self.directory.shards / shard, result.tensors, {"format": "pt"})
        self.directory.commit(
            LayerRecord(
                shard,
                checksum(self.directory.shards / shard),
                hidden,
                checksum(self.directory.path / hidden) if hidden else "",
                list(result.tensors),
                result.bits_of_module,
            )
        )

    # -- the end

    def _finish(self, plan: dict[tuple[int, StageName], int]) -> QuantizationResult:
        layers = self.directory.layers
        bits_of_module = {name: bits for layer in layers for name, bits in layer.bits_of_module.items()}
        if self.options.format == "gguf":
            self._write_gguf()
        else:
            shards = self.directory.shards
            names_of_shard = {layer.shard: layer.tensor_names for layer in layers}
            num_layers = self.model.spec.num_layers
            names_of_shard[shard_name(num_layers, num_layers)] = write_rest(self.model, shards)
            write_index(shards, names_of_shard)
            copy_companions(self.model, shards)
            has_lm_head = not self.model.spec.tied_embeddings
            config = quantization_config(self.options, bits_of_module, has_lm_head=has_lm_head)
            write_config(self.model, shards, config)
            self.directory.finish()
        output = self.directory.output
        return QuantizationResult(
            output,
            num_weight_bytes(self.model.directory),
            output.stat().st_size if output.is_file() else num_weight_bytes(output),
            None if self.options.format == "gguf" else self._mean_bits(plan),
            bits_of_module,
            self._calibrated_on(),
        )

    def _calibrated_on(self) -> str:
        if self.data is not None:
            return f"{self.data.num_tokens} tokens of {self.data.source}"
        return self.importance.summary or "no data (none is needed)"

    def _write_gguf(self) -> None:
        found = self.importance.given if self.data is None else self._found_importance(self.data)
        export_gguf(
            self.model.directory,
            self.directory.output,
            self.options.gguf_type,
            None if found is None else found.importance,
            dataset="" if found is None else ", ".join(found.datasets),
            num_chunks=0 if found is None else found.num_chunks,
            imatrix_file="" if self.importance.source is None else str(self.importance.source),
            progress=lambda done, total: self.progress("elements encoded", done, total),
        )
        self.directory.drop()

    def _found_importance(self, data: Calibration) -> ImportanceMatrix:
        """By GGUF's names; saved where that was asked for."""
        importance: dict[str, Floats] = {}
        for layer in self.directory.layers:
            for name, stored in SafetensorsFile.open(self.directory.shards / layer.shard).tensors.items():
                importance[name] = dequantize(stored)
        by_gguf = gguf_importance(self.model.directory, importance)
        found = ImportanceMatrix(by_gguf, (data.source,), *data.token_ids_SL.shape)
        self.importance.save(found)
        return found

    def _mean_bits(self, plan: dict[tuple[int, StageName], int]) -> float:
        """Over the layers' matrices; what was skipped counts as 16 bits."""
        total = weights = 0.0
        for (layer, stage), bits in plan.items():
            for matrix in STAGES[stage]:
                size = float(np.prod(self.model.layer_shapes[matrix]))
                skipped = self.options.skips(layer, self.model.source(matrix, layer).name)
                total += size * self._stored_bits(stage, 16 if skipped else bits)
                weights += size
        return total / weights
