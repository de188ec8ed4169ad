"""Files that travel in the package: the embedded model, so that the engine runs with no model and no network."""

from importlib.resources import files
from pathlib import Path

from vivace.core.errors import ModelFileError


def embedded_model_path() -> Path:
    """The folder of the embedded model, laid out as Hugging Face does.

    Raises `ModelFileError` where the package is not a folder on disk (run from a zip) or lacks the model.
    """
    path = Path(str(files(__name__))) / "embedded"
    if not (path / "config.json").is_file():
        raise ModelFileError(path, "no embedded model here: reinstall vivace, or name a model folder")
    return path
