"""Files of a model directory. A model decides no path outside it: downloads are other people's input."""

from __future__ import annotations

from os import PathLike
from pathlib import Path, PurePosixPath

from vivace.core.errors import ModelFileError


def model_file(directory: str | PathLike[str], name: str) -> Path:
    """The path of `name` inside the directory; whether it exists is not checked.

    Raises ModelFileError if the name is absolute or has `..`, or if a symbolic link leads outside. Links of a
    Hugging Face cache are fine: snapshots/<revision>/* point to ../../blobs inside the same `models--*` folder.
    """
    pure = PurePosixPath(name)
    if not pure.parts or pure.is_absolute() or ".." in pure.parts or "\0" in name or "\\" in name:
        raise ModelFileError(directory, f"{name!r:.200} is not a path inside the model directory")
    path = Path(directory) / pure
    try:
        root, target = _confinement(Path(directory)), path.resolve()
    except (OSError, RuntimeError) as error:  # a loop of links
        raise ModelFileError(path, f"cannot be resolved: {error}") from error
    if not target.is_relative_to(root):
        raise ModelFileError(path, f"a symbolic link out of the model directory, to {target}")
    return path


def _confinement(directory: Path) -> Path:
    """The hub cache's `models--*` folder that the directory lies in, else the directory itself; resolved."""
    resolved = directory.resolve()
    for ancestor in (resolved, *resolved.parents):
        if ancestor.name.startswith("models--"):
            return ancestor
    return resolved
