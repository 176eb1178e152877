"""What there is to fuzz, and how each target becomes something that runs. Knows compilers and the venv, not the runs."""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys
from typing import NamedTuple

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "fuzz"
CORPUS = HERE / "corpus"
BUILD = ROOT / "build" / "fuzz"
VENV = BUILD / "venv"
ATHERIS = "atheris>=3,<4"
SECONDS = 900

FLAGS = [
    "-std=c11", "-D_GNU_SOURCE", "-g", "-O1", "-fno-omit-frame-pointer", "-fno-sanitize-recover", "-Wall", "-Wextra",
    "-Werror", "-pthread", f"-I{ROOT / 'native'}", f"-I{ROOT / 'tests' / 'crash'}",
]  # fmt: skip
SANITIZERS = "address,undefined"


class Native(NamedTuple):
    """A target in C: native/NAME.c with these sources. options: libFuzzer's, beside everybody's."""

    sources: tuple[str, ...]
    options: tuple[str, ...] = ()


# Most exposed first: that is the order of a run.
PYTHON = ("smtp_server", "smtp_client", "frames", "inject", "rules", "users", "reports", "dump")
NATIVE = {
    "body": Native(("native/body.c",)),
    "segments": Native(("native/queue*.c", "native/crc32c.c", "tests/crash/disk.c")),
    "client": Native(("native/system.c",), ("-detect_leaks=0",)),  # NSS keeps what it has read
}
TARGETS = ("body", "smtp_server", "segments", "smtp_client", "frames", "inject", "client", "rules", "users", "reports", "dump")
SEEDS = {"dump": "segments"}  # whose corpus and dictionary a target without its own begins with
assert set(TARGETS) == {*PYTHON, *NATIVE}


def corpus(name: str) -> pathlib.Path:
    return CORPUS / SEEDS.get(name, name)


def dictionary(name: str) -> pathlib.Path:
    return HERE / f"{SEEDS.get(name, name)}.dict"


def _sources(name: str) -> list[str]:
    found = [HERE / "native" / f"{name}.c"]
    for pattern in NATIVE[name].sources:
        found += sorted(ROOT.glob(pattern))
    return [str(path) for path in found]


def build(name: str, into: pathlib.Path, compiler: str = "clang") -> pathlib.Path:
    """Compile a C target: with libFuzzer by clang, to be given files by any other compiler."""
    into.mkdir(parents=True, exist_ok=True)
    if compiler == "clang":
        # Comparisons are not traced: checksums are made right by the target, and the search for records has thousands.
        engine = [f"-fsanitize=fuzzer,{SANITIZERS}", "-fno-sanitize-coverage=trace-cmp"]
    else:
        engine = [f"-fsanitize={SANITIZERS}", str(HERE / "native" / "replay.c")]
    made = into / name
    subprocess.run([compiler, *FLAGS, *engine, *_sources(name), "-o", str(made)], check=True, timeout=SECONDS)
    return made


@functools.cache
def has_atheris() -> bool:
    """Make the venv with atheris, for the distribution's Python and its packages. False if it cannot be had here."""
    python = VENV / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(VENV)], check=True, timeout=SECONDS)
    pip = [str(python), "-m", "pip", "install", "-q", "--retries", "1", ATHERIS]
    if subprocess.run([str(python), "-c", "import atheris"], capture_output=True, timeout=SECONDS).returncode == 0:
        return True
    return subprocess.run(pip, timeout=SECONDS).returncode == 0


def command(name: str) -> list[str]:
    """Return the words that run a target; libFuzzer's options and folders go behind them."""
    if name in NATIVE:
        return [str(build(name, BUILD)), *NATIVE[name].options]
    python = str(VENV / "bin" / "python") if has_atheris() else sys.executable
    return [python, "-m", "tests.fuzz.drive", name]
