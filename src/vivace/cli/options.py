"""Options that commands share: the fields of `EngineConfig` and `SamplingParams` as flags, each defined once.

A command declares a parameter `config: EngineConfig` and is decorated with `takes(config=ENGINE)`; the command line
then shows the group's flags in its place, and the command gets the built value.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer
from typer.models import ArgumentInfo

from vivace.core.config import CHOICES, EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.sampling import SamplingParams
from vivace.core.speculation import SpeculativeConfig
from vivace.core.structured_outputs import StructuredOutputs
from vivace.serve.config import SERVE_CHOICES, ServeConfig

Parameter = inspect.Parameter


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """Flags that together make one value."""

    parameters: tuple[Parameter, ...]
    build: Callable[[dict[str, Any]], Any]

    def with_defaults(self, **defaults: object) -> OptionGroup:
        """The same flags with other defaults."""
        changed = (p.replace(default=defaults.get(p.name, p.default)) for p in self.parameters)
        return OptionGroup(tuple(changed), self.build)

    def given(self, **help_texts: str) -> OptionGroup:
        """The same flags, built into a dict of those that were given: what was not may come from elsewhere."""
        return OptionGroup(tuple(_optional(p, help_texts.get(p.name)) for p in self.parameters), _given)

    def without(self, *names: str) -> OptionGroup:
        """The group less some flags; the value keeps its own defaults there."""
        return OptionGroup(tuple(p for p in self.parameters if p.name not in names), self.build)


def _optional(parameter: Parameter, help_text: str | None) -> Parameter:
    """None where the flag is not given; its help goes on showing the default."""
    kind, option = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
    if isinstance(option, ArgumentInfo):
        return parameter
    shown = help_text or option.help
    if parameter.default is not None:
        shown = f"{shown}  [default: {_as_typed(parameter)}]"
    option = typer.Option(help=shown, show_default=False)
    return parameter.replace(default=None, annotation=Annotated[kind | None, option])


def _as_typed(parameter: Parameter) -> str:
    """The default as one would give it: of a switch the flag's name."""
    flag = parameter.name.replace("_", "-")
    return (
        {True: flag, False: f"no-{flag}"}[parameter.default]
        if isinstance(parameter.default, bool)
        else str(parameter.default)
    )


def _given(values: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in values.items() if value is not None and value != []}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def takes(**groups: OptionGroup) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace each named parameter of a command by the flags of a group. Groups may share a flag (`--seed`)."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        merged: dict[str, Parameter] = {}
        own = inspect.signature(command, eval_str=True).parameters
        for name, parameter in own.items():
            group = groups[name].parameters if name in groups else (parameter,)
            merged.update({p.name: p.replace(kind=Parameter.KEYWORD_ONLY) for p in group})

        def run(**values: Any) -> None:
            arguments = {name: values[name] for name in own if name not in groups}
            for name, group in groups.items():
                arguments[name] = group.build({p.name: values[p.name] for p in group.parameters})
            command(**arguments)

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        run.__annotations__ = {name: parameter.annotation for name, parameter in merged.items()}
        run.__signature__ = inspect.Signature(list(merged.values()))  # type: ignore[attr-defined]
        return run

    return decorate


def _flag_type(hint: Any, name: str) -> Any:
    """What the command line parses for a field of type `hint`."""
    if name in CHOICES or name in SERVE_CHOICES:
        return str
    if hint == tuple[str, ...]:
        return list[str]
    if hint == tuple[int, ...]:
        return list[int]
    if hint == Mapping[int, float]:
        return list[str]
    if hint in (StructuredOutputs | None, SpeculativeConfig | None, tuple[int, ...] | None):
        return str | None
    return hint


def flags_of(value_type: type, help_texts: dict[str, str]) -> list[Parameter]:
    """One flag for each field that has a help text, with the field's default."""
    hints = get_type_hints(value_type)
    flags = []
    for field in fields(value_type):
        if field.name not in help_texts:
            continue
        kind = _flag_type(hints[field.name], field.name)
        default = field.default if field.default is not MISSING else None
        if kind in (list[str], list[int]):
            kind, default = kind | None, None
        annotation = Annotated[kind, typer.Option(help=help_texts[field.name])]  # type: ignore[valid-type]
        flags.append(Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation))
    return flags


def _one_of(name: str) -> str:
    return ", ".join(CHOICES[name])


MODEL = Parameter(
    "model",
    Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]",
            help="A directory, a GGUF file, embedded-draft, a hub name; without it: the embedded model.",
        ),
    ],
)

ENGINE_HELP = {
    "tokenizer": "Directory or file of the tokenizer, where it is not with the model.",
    "generation_config": "Sampling defaults: auto (the model's own), vllm (neutral), or a generation_config.json.",
    "load_format": f"Where weights come from: {_one_of('load_format')} (random weights of --config).",
    "config": "A preset (llama-3.2-1b, qwen2.5-0.5b, ...) or a config.json, with --load-format dummy.",
    "quantization": f"Weights in memory: {_one_of('quantization')}.",
    "packed_cache": "Keep large models' packed weights in ~/.cache/vivace, or $VIVACE_CACHE, for the next start.",
    "kv_cache_dtype": f"Keys and values in memory: {_one_of('kv_cache_dtype')} (or fp8, on a GPU).",
    "max_model_len": "Context window in tokens; default: the model's own.",
    "max_num_seqs": "Sequences that run at once.",
    "max_num_batched_tokens": "Tokens a step computes at most; default: 512, on a GPU 2048.",
    "block_size": "Tokens in a block of the KV cache.",
    "kv_cache_memory_bytes": "Memory of the KV cache; default: a share of what is free.",
    "num_kv_blocks": "Exact number of KV blocks.",
    "enable_prefix_caching": "Keep the keys and values of common prompt beginnings.",
    "enable_chunked_prefill": "Cut long prompts into steps of --max-num-batched-tokens.",
    "attention_backend": f"Who computes a GPU's attention: {_one_of('attention_backend')}.",
    "batching": f"Who runs together: {_one_of('batching')}.",
    "static_batch_size": "With --batching static: requests that start together.",
    "static_batch_timeout_ms": "With --batching static: how long a batch waits to fill up.",
    "speculative_config": 'Guess tokens: {"method": "ngram"}, {"method": "medusa"}, '
    '{"method": "draft_model", "model": NAME}.',
    "num_threads": "Threads that compute; default: the physical cores that affinity and quota leave to this process.",
    "instruction_set": "Force one instruction set (vivace doctor lists them).",
    "backend": f"Who computes: {_one_of('backend')}.",
    "device": "Where it computes: auto, cpu, cuda (the first GPU) or cuda:N; auto takes a GPU that is there.",
    "overlap_steps": "On a GPU: launch the next step before the tokens of the last one are read.",
    "enforce_eager": "On a GPU: decode without CUDA graphs: no time to capture them, no memory, slower steps.",
    "cuda_graph_sizes": "Sequences of the steps that decode by CUDA graphs, as in 1,2,4,8; default: up to 256.",
    "cuda_graph_capture": f"When CUDA graphs are captured: {_one_of('cuda_graph_capture')}.",
    "gpu_memory_utilization": "Share of a GPU's memory to use: weights, KV cache, and what steps take.",
    "seed": "Seed of random numbers.",
}

SAMPLING_HELP = {
    "n": "Continuations of the prompt.",
    "max_tokens": "Tokens to generate at most.",
    "min_tokens": "Tokens before which the end is not allowed.",
    "temperature": "0: always the likeliest token.",
    "top_k": "Draw from the k likeliest tokens; 0: off.",
    "top_p": "Draw from the likeliest tokens that hold this probability together.",
    "min_p": "Drop tokens below this share of the likeliest one's probability.",
    "repetition_penalty": "Above 1: tokens seen before become less likely.",
    "presence_penalty": "Subtracted from the logit of tokens already generated.",
    "frequency_penalty": "Subtracted from the logit for each time a token was generated.",
    "logit_bias": "ID=BIAS, added to a token's logit; may be repeated.",
    "stop": "Text that ends the answer; may be repeated.",
    "stop_token_ids": "Token id that ends the answer; may be repeated.",
    "include_stop_str_in_output": "Keep the stop text in the answer.",
    "ignore_eos": "Go on after the model's end token.",
    "seed": "Seed of random numbers; the same seed gives the same text.",
    "logprobs": "With --json: log probabilities of the chosen token and the k likeliest.",
    "prompt_logprobs": "With --json: the same for the prompt's tokens.",
    "skip_special_tokens": "Leave control tokens out of the text.",
    "structured_outputs": "json_object, json_schema=SCHEMA, regex=EXPRESSION, choice=JSON_LIST or grammar=LARK.",
}

SERVE_HELP = {
    "host": "Address to listen on; 0.0.0.0 or :: for every interface.",
    "port": "Port to listen on; 0: any free one.",
    "port_file": "Write the port to this file when the server listens.",
    "served_model_name": "Name of the model in the API; may be repeated. Default: the model's own.",
    "api_key": "Key that opens the API; may be repeated. The list of processes shows it to others on this machine: "
    "prefer --api-key-file or the environment variable VIVACE_API_KEY, which counts where neither flag is given.",
    "api_key_file": "File with a key a line; # begins a comment.",
    "shared_prefix_cache": "Let API keys share the prefix cache; they could then time each other's prompts.",
    "cors_allow_origin": "Origin whose web pages may call the API (* for all); may be repeated.",
    "ssl_certfile": "Certificate chain (PEM): serve HTTPS.",
    "ssl_keyfile": "The certificate's private key (PEM, not encrypted).",
    "max_connections": "Connections at once; further ones get 503.",
    "max_header_bytes": "Bytes of a request's line and headers (431).",
    "max_headers": "Headers of a request (431).",
    "max_body_bytes": "Bytes of a request's body (413).",
    "header_timeout_s": "Seconds in which a request's headers must arrive (408).",
    "body_timeout_s": "Seconds in which its body must arrive (408).",
    "keep_alive_timeout_s": "Seconds that an idle connection is kept.",
    "send_timeout_s": "Seconds after which a client that does not read its answer is cut off.",
    "max_queued_requests": "Requests that may wait (429).",
    "max_queued_tokens": "Prompt tokens that may wait (429); default: a million.",
    "max_queue_s": "Seconds of predicted waiting beyond which a request is refused (429).",
    "request_timeout_s": "Seconds after which a request ends (504), where it does not ask for less; default: none.",
    "load_timeout_s": "Seconds after which a model's load that stands still ends the server.",
    "drain_timeout": "Seconds that running requests have to end after SIGTERM.",
    "log_format": f"Lines of the log on stderr: {', '.join(SERVE_CHOICES['log_format'])}.",
    "access_log": "Log a line for every request.",
    "otlp_endpoint": "Send OpenTelemetry traces to this collector, as OTLP over HTTP (needs vivace[otel]); "
    "default: OTEL_EXPORTER_OTLP_ENDPOINT, else none.",
}

_ENGINE_DEFAULTS = EngineConfig()


def _engine_config(values: dict[str, Any]) -> EngineConfig:
    if values.get("seed") is None:
        values["seed"] = _ENGINE_DEFAULTS.seed
    return EngineConfig.from_options(values)


def _logit_bias(entries: list[str]) -> dict[int, float]:
    biases = {}
    for entry in entries:
        token, _, bias = entry.partition("=")
        try:
            biases[int(token)] = float(bias)
        except ValueError:
            raise ConfigError(f"--logit-bias takes ID=BIAS, as in 42=-5.5, not {entry!r}") from None
    return biases


def _sampling_params(values: dict[str, Any]) -> SamplingParams:
    lists = {name: values[name] or () for name in ("stop", "stop_token_ids")}
    parsed = {
        "logit_bias": _logit_bias(values["logit_bias"] or []),
        "structured_outputs": _structured_outputs(values["structured_outputs"]),
    }
    return SamplingParams(**{**values, **lists, **parsed})


def _structured_outputs(entry: str | None) -> StructuredOutputs | None:
    kind, _, text = (entry or "").partition("=")
    return StructuredOutputs(kind, text) if entry is not None else None  # type: ignore[arg-type]


def _optional_seed(flags: list[Parameter]) -> tuple[Parameter, ...]:
    """`--seed` is shared with sampling, where None (the engine picks) is the default."""
    seed = Annotated[int | None, typer.Option(help=SAMPLING_HELP["seed"])]
    return tuple(p.replace(default=None, annotation=seed) if p.name == "seed" else p for p in flags)


ENGINE = OptionGroup((MODEL, *_optional_seed(flags_of(EngineConfig, ENGINE_HELP))), _engine_config)
SAMPLING = OptionGroup(_optional_seed(flags_of(SamplingParams, SAMPLING_HELP)), _sampling_params)
SERVE = OptionGroup(tuple(flags_of(ServeConfig, SERVE_HELP)), lambda values: ServeConfig(**values))
MODEL_ONLY = ENGINE.without(*(name for name in ENGINE_HELP if name != "tokenizer"))
