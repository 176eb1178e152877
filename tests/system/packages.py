"""Our Debian packages, built as on a build machine: in a clean root, by an ordinary user, without a network.

What is built is the working tree (tracked and new files, not ignored ones) without the system tests and
benchmarks, so that work on those does not cause a new build. Results are kept under a hash of that tree.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .roots import CACHE, RootCopy, RootError, base_root, command, locked

TREE = Path(__file__).resolve().parents[2]
TOOLS = ("build-essential", "fakeroot", "debhelper", "lintian")
NOT_PACKAGED = ("tests/system/", "tests/bench/")
KEPT_BUILDS = 6

# The unit tests run on their own; a build for the machines need not run them again.
BUILD = """
set -eu
cd /build/tree
export LC_ALL=C.UTF-8 DEB_BUILD_OPTIONS='nocheck parallel=2' DEB_BUILD_PROFILES=nocheck
dpkg-buildpackage -us -uc -b
"""
LINTIAN = 'cd /build && exec lintian --pedantic --display-info --tag-display-limit 0 --color never "$@"'
MAKE_BUILDER = 'chroot "$1" useradd --create-home --home-dir /build --uid 1000 builder'


@dataclass(frozen=True, slots=True)
class Build:
    """One finished build: the packages, the .changes file, and what the build printed."""

    folder: Path

    @property
    def debs(self) -> list[Path]:
        return sorted(deb for deb in self.folder.glob("*.deb") if "-dbgsym_" not in deb.name)

    @property
    def changes(self) -> Path:
        (changes,) = self.folder.glob("*.changes")
        return changes

    @property
    def log(self) -> str:
        return (self.folder / "build.log").read_text(errors="replace")


def build_packages(release: str, suffix: str = "", tree: Path = TREE) -> list[Path]:
    """The .debs of the working tree for `release`; `suffix` (`+1`) makes a later version of the same code."""
    return build(release, suffix, tree).debs


def build(release: str, suffix: str = "", tree: Path = TREE) -> Build:
    """As build_packages(), with all that came out of it. RootError with the build's log if it fails."""
    files = _files(tree)
    name = f"{release}-{_hash(tree, files)}{suffix}"
    folder = CACHE / "packages" / name
    with locked(folder.with_name(name + ".lock")):
        if not folder.exists():
            _build(release, suffix, tree, files, folder)
            _forget_old_builds(folder.parent, release)
    return Build(folder)


def lintian(release: str, build: Build) -> list[str]:
    """What that release's lintian says about the packages, one tag a line, down to the pedantic ones."""
    copy = RootCopy(_build_root(release, TREE), f"lintian.{release}")
    try:
        for file in [build.changes, *build.folder.glob("*.deb"), *build.folder.glob("*.buildinfo")]:
            shutil.copy(file, copy.path / "build" / file.name)
        argv = _inside(copy, ["sh", "-c", LINTIAN, "lintian", build.changes.name])
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
        if done.returncode not in (0, 2):  # 1: lintian itself failed
            raise RootError(f"lintian: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return [line for line in done.stdout.splitlines() if line.strip()]
    finally:
        copy.remove()


def _files(tree: Path) -> list[str]:
    listed = command(
        ["git", "-C", tree, "ls-files", "-z", "--cached", "--others", "--exclude-standard"], "git"
    )
    names = sorted(set(listed.split("\0")) - {""})
    return [n for n in names if not n.startswith(NOT_PACKAGED) and (tree / n).is_file()]


def _hash(tree: Path, files: list[str]) -> str:
    digest = hashlib.sha256(BUILD.encode())
    for name in files:
        path = tree / name
        executable = path.stat().st_mode & 0o111 != 0
        digest.update(f"{name}\0{executable}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def build_dependencies(control: str) -> list[str]:
    """The packages that a debian/control needs for a build without its tests: of alternatives the first."""
    joined = re.sub(r"\n[ \t]+", " ", re.sub(r"(?m)^#.*\n", "", control))
    packages = []
    for field in re.findall(r"(?mi)^Build-Depends(?:-Arch|-Indep)?:(.*)$", joined):
        for entry in field.split(","):
            first = entry.split("|")[0].strip()
            name = re.match(r"[a-z0-9][a-z0-9+.-]*(:any)?", first)
            if name and "<!nocheck>" not in first:
                packages.append(name.group().removesuffix(":any"))
    return [name for name in packages if name != "debhelper-compat"]


def _build_root(release: str, tree: Path) -> Path:
    needed = build_dependencies((tree / "debian/control").read_text())
    return base_root(release, [*TOOLS, *needed], purpose="build", hook=MAKE_BUILDER)


def _inside(copy: RootCopy, argv: list[str]) -> list[str]:
    # No network: a build that would fetch something must fail.
    return [
        "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--settings=no", "--private-network",
        "--resolv-conf=off", "--timezone=off", "--pipe", "--as-pid2", f"--directory={copy.path}",
        "--machine=build", "--user=builder", "--", *argv,
    ]  # fmt: skip


def _build(release: str, suffix: str, tree: Path, files: list[str], folder: Path) -> None:
    copy = RootCopy(_build_root(release, tree), f"build.{release}{suffix}")
    try:
        inside = copy.path / "build/tree"
        for name in files:
            (inside / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(tree / name, inside / name)
        if suffix:
            changelog = inside / "debian/changelog"
            changelog.write_text(changelog.read_text().replace(")", f"{suffix})", 1))
        command(["chown", "-R", "1000:1000", copy.path / "build"], "chown")
        log = command(_inside(copy, ["sh", "-c", BUILD]), f"building for {release}")
        finished = folder.with_name(folder.name + ".new")
        shutil.rmtree(finished, ignore_errors=True)
        finished.mkdir()
        for file in (copy.path / "build").iterdir():
            if file.is_file() and file.suffix in (".deb", ".changes", ".buildinfo"):
                shutil.copy(file, finished)
        (finished / "build.log").write_text(log)
        finished.rename(folder)
    finally:
        copy.remove()


def _forget_old_builds(folder: Path, release: str) -> None:
    builds = [path for path in folder.glob(f"{release}-*") if path.is_dir()]
    for old in sorted(builds, key=lambda path: path.stat().st_mtime)[:-KEPT_BUILDS]:
        shutil.rmtree(old)
