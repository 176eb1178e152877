"""The source distribution: all that the native modules are built of is in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


def run_setup(tree: Path, *words: object) -> None:
    command = [PYTHON, "-W", "ignore", "setup.py", "--quiet", *map(str, words)]
    subprocess.run(command, cwd=tree, env={**os.environ, "CFLAGS": "-O0"}, check=True, timeout=300)


def test_the_native_modules_are_built_from_a_source_distribution(tmp_path: Path) -> None:
    run_setup(TREE, "egg_info", "--egg-base", tmp_path, "sdist", "--dist-dir", tmp_path)
    (packed,) = tmp_path.glob("*.tar.gz")
    subprocess.run(["tar", "xzf", packed], cwd=tmp_path, check=True)
    (source,) = (path.parent for path in tmp_path.glob("*/setup.py"))
    run_setup(source, "build_ext", "--inplace")
    assert {path.name.split(".")[0] for path in source.glob("qmaild/*.so")} == {"_body", "_queue", "_system"}
