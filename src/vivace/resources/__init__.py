"""Models that travel in the package, so that the engine and its speculation run with no download and no network.

Each is a folder: `embedded` and `embedded-draft` laid out as Hugging Face does, `embedded-medusa` as
`vivace train-medusa` writes; `README.md` is the card; the paragraph under its heading is the summary.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

from vivace.core.errors import ConfigError, ModelFileError

ResourceKind = Literal["model", "draft", "medusa"]
EMBEDDED, EMBEDDED_DRAFT, EMBEDDED_MEDUSA = "embedded", "embedded-draft", "embedded-medusa"
KINDS: dict[str, ResourceKind] = {EMBEDDED: "model", EMBEDDED_DRAFT: "draft", EMBEDDED_MEDUSA: "medusa"}
MODEL_NAMES = (EMBEDDED, EMBEDDED_DRAFT)  # those that can be named where a model is wanted
_MARKERS: dict[ResourceKind, str] = {"model": "config.json", "draft": "config.json", "medusa": "medusa.json"}


@dataclass(frozen=True, slots=True)
class Resource:
    """One folder of the package."""

    name: str
    kind: ResourceKind
    path: Path

    @property
    def num_bytes(self) -> int:
        """Of all its files."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def card(self) -> str:
        """What its README.md says: data, licence, training, quality."""
        return (self.path / "README.md").read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """The card's first paragraph, in one line."""
        _, _, text = self.card.partition("\n# ")
        paragraphs = text.split("\n\n")
        return " ".join(paragraphs[1].split()) if len(paragraphs) > 1 else ""


def resources() -> list[Resource]:
    """All that the package carries, in the order of KINDS."""
    return [resource(name) for name in KINDS]


def resource(name: str) -> Resource:
    """One by its name.

    Raises `ConfigError` for an unknown name, `ModelFileError` where the package is not a folder on disk (run from a
    zip) or lacks it.
    """
    if name not in KINDS:
        raise ConfigError(f"no embedded model is called {name!r}; there are {', '.join(KINDS)}")
    path = Path(str(files(__name__))) / name
    if not (path / _MARKERS[KINDS[name]]).is_file():
        raise ModelFileError(path, "nothing embedded here: reinstall vivace, or name a model folder")
    return Resource(name, KINDS[name], path)


def embedded_model_path() -> Path:
    """The folder of the embedded model; errors as `resource`."""
    return resource(EMBEDDED).path
