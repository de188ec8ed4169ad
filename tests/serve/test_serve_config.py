"""Default < file < flag; what is wrong is named with its file, line and key."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vivace.cli.serve import configurations
from vivace.core.config import EngineConfig
from vivace.core.errors import ConfigError
from vivace.core.speculation import SpeculativeConfig
from vivace.serve.config import ServeConfig
from vivace.serve.config_file import ConfigFile
from vivace.serve.http_server import is_loopback
from vivace.serve.server import model_name

EXAMPLE = """
# a comment
[engine]
model = "models/one"
max_num_seqs = 12
quantization = "int8"

[serve]
port = 9000
served_model_name = ["one", "uno"]
"drain_timeout" = 5
api_key = ["file-key"]
"""


def _write(directory: Path, text: str) -> str:
    path = directory / "vivace.toml"
    path.write_text(text)
    return str(path)


def test_a_flag_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    path = _write(tmp_path, EXAMPLE)
    engine, config = configurations({"config": path, "max_num_seqs": 3}, {"port": 9001})
    assert engine == EngineConfig(model="models/one", max_num_seqs=3, quantization="int8")
    expected = ServeConfig(port=9001, served_model_name=("one", "uno"), drain_timeout=5, api_key=("file-key",))
    assert config == expected


def test_another_config_keeps_its_meaning() -> None:
    engine, config = configurations({"config": "llama-3.2-1b", "load_format": "dummy"}, {})
    assert (engine.config, config) == ("llama-3.2-1b", ServeConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[engine]\nmax_num_seq = 3",
            r"line 2: unknown key 'max_num_seq' in \[engine\]; did you mean 'max_num_seqs'",
        ),
        ("[serve]\n\n\nmax_num_seqs = 3", r"line 4: unknown key 'max_num_seqs' in \[serve\]"),
        ("[engine]\nport = 1\n[serve]\nport = 2", r"line 2: unknown key 'port' in \[engine\]"),
        ("[server]\nport = 1", "line 1: unknown table or key 'server'; did you mean 'serve'"),
        ("port = 1", "line 1: unknown table or key 'port'; known: engine, serve"),
        ("serve = 3", r"line 1: write \[serve\]"),
        ("[serve]\nport = '80'", "line 2: port must be an integer, not '80'"),
        ("[serve]\nport = true", "line 2: port must be an integer, not True"),
        ("[serve]\naccess_log = 1", "line 2: access_log must be true or false"),
        ("[serve]\napi_key = 'a'", "line 2: api_key must be a list of strings"),
        ("[serve]\napi_key = [1]", "line 2: api_key must be a list of strings"),
        ("[serve]\nlog_format = 'xml'", "line 2: log_format must be one of text, json"),
        ("[serve]\nhost = {x = 1}", "line 2: host must be a string"),
        ("[engine]\nmodel = 5", "line 2: model must be a string"),
        ('[engine]\nspeculative_config = {method = "ngrm"}', "must be one of ngram, draft_model"),
        ("[engine]\nspeculative_config = 5", "speculative_config must be an object"),
        ("[engine]\nquantization = 'int3'", "line 2: quantization must be one of"),
        ("[serve]\nport = 70000", "line 2: port must be from 0 to 65535"),
        ("[serve]\nsend_timeout_s = 0", "line 2: send_timeout_s must be a number of seconds above 0"),
        ("[serve]\nsend_timeout_s = inf", "line 2: send_timeout_s must be a number of seconds above 0"),
        ("[serve]\nsend_timeout_s = nan", "line 2: send_timeout_s must be a number of seconds above 0"),
        ("[serve]\napi_key = ['a b']", "line 2: api_key: a key needs"),
        ("[serve]\nport = 1\nport = 2", "not valid TOML: Cannot overwrite a value"),
        ("[serve", "not valid TOML"),
        ("\xff", "unknown|not valid TOML"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        configurations({"config": _write(tmp_path, text)}, {})


def test_a_file_may_say_fp8_as_the_flag_does(tmp_path: Path) -> None:
    engine, _ = configurations({"config": _write(tmp_path, "[engine]\nkv_cache_dtype = 'fp8'")}, {})
    assert engine.kv_cache_dtype == "fp8_e4m3"


def test_a_flag_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^port must be"):
        configurations({"config": _write(tmp_path, EXAMPLE)}, {"port": -1})


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read /nowhere\.toml: No such file"):
        ConfigFile("/nowhere.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        ConfigFile(str(tmp_path / "binary.toml"))


@pytest.mark.parametrize("name", [name for name in ServeConfig.__slots__ if name.startswith("max_")])
def test_limits_are_positive(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        ServeConfig(**{name: 0})


def test_keys_of_the_file_the_flags_and_the_environment(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# ours\nsecond\n\n  third  \nfirst\n")
    config = ServeConfig(api_key=("first",), api_key_file=str(keys))
    assert config.all_api_keys() == ("first", "second", "third")
    assert "first" not in repr(config)
    assert configurations({}, {}, "environment")[1].all_api_keys() == ("environment",)
    assert configurations({}, {"api_key": ("flag",)}, "environment")[1].all_api_keys() == ("flag",)
    keys.write_text("# nothing\n")
    with pytest.raises(ConfigError, match="has no key"):
        config.all_api_keys()
    keys.write_text("good\nnot good\n")
    with pytest.raises(ConfigError, match="line 2: a key needs"):
        config.all_api_keys()
    keys.write_bytes("schlüssel\n".encode())
    with pytest.raises(ConfigError, match="plain ASCII"):
        config.all_api_keys()


@pytest.mark.parametrize("key", ["", "a b", "a\n", "\x00", "ü", "x" * 5_000])
def test_keys_that_no_header_carries(key: str) -> None:
    with pytest.raises(ConfigError, match="a key needs"):
        ServeConfig(api_key=(key,))


def test_names_of_models(tmp_path: Path) -> None:
    (tmp_path / "some-model").mkdir()
    (tmp_path / "some.Q4_0.gguf").touch()
    assert model_name(EngineConfig()) == "vivace-embedded"
    assert model_name(EngineConfig(model=str(tmp_path / "some-model"))) == "some-model"
    assert model_name(EngineConfig(model=f"{tmp_path}/some-model/.")) == "some-model"
    assert model_name(EngineConfig(model=str(tmp_path / "some.Q4_0.gguf"))) == "some.Q4_0"
    assert model_name(EngineConfig(model="owner/name")) == "owner/name"
    assert model_name(EngineConfig(config="llama-3.2-1b", load_format="dummy")) == "llama-3.2-1b"


def test_which_hosts_are_this_machine_alone() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.0.2.1")] == [False] * 3


def test_a_wrong_flag_is_one_line_and_imports_no_server() -> None:
    script = (
        "import sys; sys.argv = ['vivace', 'serve', '--port', '70000']\n"
        "from vivace.cli import main\n"
        "try:\n    main()\n"
        "finally:\n    assert not {'starlette', 'numpy', 'uvicorn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (2, "vivace: port must be from 0 to 65535, not 70000\n")


def test_speculation_comes_from_a_table_or_a_flag(tmp_path: Path) -> None:
    path = _write(tmp_path, '[engine]\nspeculative_config = {method = "ngram", num_speculative_tokens = 4}\n')
    engine, _ = configurations({"config": path}, {})
    assert engine.speculative_config == SpeculativeConfig("ngram", None, 4)
    engine, _ = configurations({"config": path, "speculative_config": '{"method": "ngram"}'}, {})
    assert engine.speculative_config == SpeculativeConfig("ngram")
