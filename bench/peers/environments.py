"""Environments of the libraries that scripts of bench/ compare with: made by pip when they are asked for, kept in .venv-peers.

python bench/peers/environments.py [NAME ...]      makes all, or those; some minutes and 6 GB for all
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PINNED = tomllib.loads((Path(__file__).parent / "environments.toml").read_text())


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made if it is not there or was made of other versions."""
    folder = ROOT / ".venv-peers" / name
    python, stamp = folder / "bin" / "python", folder / "installed"
    packages = PINNED[name]
    if not stamp.exists() or stamp.read_text().split() != packages:
        print(f"installing {', '.join(packages)} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
        subprocess.run(install, check=True)
        stamp.write_text("\n".join(packages))
    return python


if __name__ == "__main__":
    for wanted in sys.argv[1:] or PINNED:
        python_of(wanted)
