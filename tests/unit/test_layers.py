"""Who may import what: pure packages touch no machine, and each dependency has one importer."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qmaild.control.settings import TABLE
from qmaild.runtime.running import SERVICES
from qmaild.services import NEEDS_OPENSSL

TREE = Path(__file__).resolve().parents[2]
MODULES = sorted((TREE / "qmaild").rglob("*.py"))

PURE = ("protocol", "message", "policy", "scheduler", "control")
# What they may have of the standard library: no clock, no socket, no file, no chance, no process.
PURE_LIBRARY = {
    "__future__", "array", "base64", "binascii", "bisect", "codecs", "collections", "collections.abc", "dataclasses",
    "datetime", "enum", "functools", "hashlib", "heapq", "hmac", "ipaddress", "itertools", "json", "math",
    "operator", "quopri", "re", "string", "struct", "textwrap", "types", "typing", "unicodedata",
}  # fmt: skip
CLOCKS = {"now", "utcnow", "today"}  # datetime is for the calendar; the time of day is an argument

# Each dependency and each native module has one importer.
IMPORTERS = {
    "aiosmtpd": "qmaild/runtime/smtp_server.py",
    "dns": "qmaild/runtime/dns.py",
    "systemd": "qmaild/runtime/service.py",
    "qmaild._body": "qmaild/protocol/smtp/body.py",
    "qmaild._queue": "qmaild/queue/core.py",
    "qmaild._system": "qmaild/runtime/system.py",
}
NATIVE = {"qmaild._body", "qmaild._queue", "qmaild._system"}
PURE_NATIVE = {"qmaild._body"}


def imports(path: Path) -> Iterator[str]:
    """The names of all modules that a module imports, at whatever depth it does."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            yield node.module
            if node.module == "qmaild" or node.module.startswith("qmaild."):
                yield from (f"{node.module}.{name.name}" for name in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(TREE))


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


@pytest.mark.parametrize("path", [path for path in MODULES if path.relative_to(TREE).parts[1] in PURE], ids=name_of)
def test_a_pure_module_imports_no_machine(path: Path) -> None:
    for module in imports(path):
        if module.startswith("qmaild."):
            assert package_of(module) in PURE or module in PURE_NATIVE or module.startswith("qmaild._body."), module
        elif module != "qmaild":
            assert module in PURE_LIBRARY, module
    called = {node.attr for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Attribute)}
    assert not called & CLOCKS


def test_each_dependency_has_its_one_importer() -> None:
    found: dict[str, set[str]] = {}
    for path in MODULES:
        for module in imports(path):
            top = module.split(".")[0]
            if module in NATIVE:
                found.setdefault(module, set()).add(name_of(path))
            elif top not in sys.stdlib_module_names and top != "qmaild":
                found.setdefault(top, set()).add(name_of(path))
    assert found == {dependency: {importer} for dependency, importer in IMPORTERS.items()}


@pytest.mark.parametrize("package", ["services", "commands"])
def test_nobody_imports_what_is_started(package: str) -> None:
    for path in MODULES:
        if path.relative_to(TREE).parts[1] not in (package, "__main__.py"):
            assert not [module for module in imports(path) if package_of(module) == package], name_of(path)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_speaks_no_tls_loads_no_openssl(name: str) -> None:
    module = f"qmaild.services.{name}"
    script = (
        "import importlib, sys; importlib.import_module(sys.argv[1]); "
        "print([name for name in ('_ssl', '_hashlib') if sys.modules.get(name)])"
    )
    done = subprocess.run([sys.executable, "-c", script, module], cwd=TREE, capture_output=True, text=True, check=True)
    assert (done.stdout == "[]\n") == (module not in NEEDS_OPENSSL), done.stdout


# Read by functions of shared policy modules that these services do not call.
NOT_CALLED = {
    "inject": {"rcpthosts", "badmailfrom", "localiphost", "concurrencyincoming", "clientconcurrency"}, "send": {"rcpthosts"},
    "queue": {"rcpthosts"}, "local": {"rcpthosts"},
}  # fmt: skip


def reached(module: str, seen: set[str]) -> set[str]:
    """All modules of ours that come along with this one."""
    path = TREE / (module.replace(".", "/") + ".py")
    if module not in seen and path.exists():
        seen.add(module)
        for each in imports(path):
            reached(each, seen)
    return seen


@pytest.mark.parametrize("name", SERVICES)
def test_the_table_of_settings_names_the_services_that_read_each(name: str) -> None:
    read: set[str] = set()
    for module in reached(f"qmaild.services.{name}", set()):
        if package_of(module) != "control":
            tree = ast.parse((TREE / (module.replace(".", "/") + ".py")).read_bytes())
            read |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & TABLE.keys()
    everybody = {setting for setting, row in TABLE.items() if row.readers == ("*",)}
    named = {setting for setting, row in TABLE.items() if name in row.readers}
    assert named == read - everybody - NOT_CALLED.get(name, set())


def test_the_tree_has_its_folders_and_no_other() -> None:
    if not (TREE / ".git").exists():
        pytest.skip("this tree is no checkout: what belongs to it cannot be told from what was built")
    listed = subprocess.run(["git", "ls-files"], cwd=TREE, capture_output=True, text=True, check=True).stdout
    folders = {path.partition("/")[0] for path in listed.splitlines() if "/" in path}
    assert folders == {"qmaild", "native", "systemd", "packaging", "debian", "tests", ".ci"}


def test_no_callback_that_needs_writable_code() -> None:
    # MemoryDenyWriteExecute=yes: ffi.callback() fails there, def_extern() works.
    for path in [*MODULES, *(TREE / "native").glob("*.py")]:
        assert "ffi.callback" not in path.read_text(), name_of(path)
