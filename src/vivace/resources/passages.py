"""Text that travels in the package: what quantisers calibrate on and what the prompts of benchmarks are made of."""

from importlib.resources import files

DOCUMENT_MARK = "<|endoftext|>"  # on a line of its own, between documents


def passages() -> str:
    """78 kB of public-domain books and Python enhancement proposals, documents apart by `DOCUMENT_MARK`."""
    return files(__package__).joinpath("passages.txt").read_text(encoding="utf-8")
