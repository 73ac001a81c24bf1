"""Re-execute the committed notebooks on the shipped samples and clean their metadata.

    make refresh

Committed notebooks are executed, small and the same on every machine: run with TZ=UTC and
PYTHONHASHSEED=0, cell ids and outputs kept, anything that differs between runs removed.
"""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def clean(notebook: nbformat.NotebookNode) -> None:
    """Remove what differs between runs and machines."""
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}


def refresh(path: Path) -> None:
    """Execute one notebook in place."""
    notebook = nbformat.read(path, as_version=4)
    config = Config()
    config.KernelManager.transport_encryption = "auto"
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}, config=config
    ).execute()
    clean(notebook)
    nbformat.write(notebook, path)


def main() -> None:
    """Refresh every notebook."""
    os.environ |= {"TZ": "UTC", "PYTHONHASHSEED": "0"}
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        refresh(path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
