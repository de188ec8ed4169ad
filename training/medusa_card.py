"""Writes the card of Medusa heads that `vivace train-medusa` made: `python -m training.medusa_card FOLDER`."""

import json
import sys
from pathlib import Path

from training import cards


def write_card(folder: Path) -> None:
    manifest = json.loads((folder / "medusa.json").read_text())
    (folder / "README.md").write_text(cards.render("medusa", cards.medusa_facts(manifest)))


if __name__ == "__main__":
    write_card(Path(sys.argv[1]))
