"""The machine that loses its power: a kernel of Debian's, one program, one disk. Knows QEMU; not what the program does."""

from __future__ import annotations

import lzma
import pathlib
import re
import subprocess
from collections.abc import Iterator

KERNEL = "linux-image-cloud-amd64"
DRIVERS = ("virtio_pci", "virtio_blk", "xfs", "crc32c_generic")
BOOT_SECONDS = 120  # without KVM, on a busy machine


def fetch_kernel(into: pathlib.Path) -> pathlib.Path:
    """Unpack Debian's cloud kernel below `into`, once; it is not installed."""
    root = into / "kernel"
    if not list(root.glob("boot/vmlinuz-*")):
        into.mkdir(parents=True, exist_ok=True)
        listed = subprocess.run(["apt-cache", "depends", KERNEL], capture_output=True, text=True, check=True).stdout
        name = re.findall(r"Depends: (linux-image-\S+)", listed)[0]
        subprocess.run(["apt-get", "download", "-qq", name], cwd=into, check=True, capture_output=True)
        (package,) = into.glob(f"{name}_*.deb")
        subprocess.run(["dpkg", "-x", package, root], check=True)
        package.unlink()
    return root


def _modules(root: pathlib.Path) -> Iterator[tuple[str, bytes]]:
    """The drivers with all they depend on, each after what it needs."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in root.glob("lib/modules/**/*.ko*")}
    seen: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in seen or name not in files:  # what has no file is part of the kernel
            return
        seen.add(name)
        content = files[name].read_bytes()
        if files[name].suffix == ".xz":
            content = lzma.decompress(content)
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for need in needs[1].decode().split(",") if needs else []:
            yield from load(need.replace("-", "_"))
        yield name, content

    for driver in DRIVERS:
        yield from load(driver)


def _archive(entries: list[tuple[str, int, bytes, int]]) -> bytes:
    """The kernel's first file system, as cpio: name, mode, content, minor number of a character device 5."""
    out = bytearray()
    for inode, (name, mode, content, minor) in enumerate([*entries, ("TRAILER!!!", 0, b"", 0)], 1):
        major = 5 if minor else 0
        fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + content
        out += bytes(-len(out) % 4)
    return bytes(out)


def first_files(kernel: pathlib.Path, program: pathlib.Path) -> bytes:
    modules = list(_modules(kernel))
    listed = "".join(f"{name}\n" for name, _ in modules).encode()
    entries = [("dev", 0o040755, b"", 0), ("dev/console", 0o020600, b"", 1), ("modules", 0o040755, b"", 0)]
    entries += [("modules/list", 0o100644, listed, 0), ("init", 0o100755, program.read_bytes(), 0)]
    return _archive(entries + [(f"modules/{name}", 0o100644, content, 0) for name, content in modules])


class Machine:
    """A running machine. Its disk has a volatile cache; with `log`, every request to it is written there in order."""

    def __init__(
        self, kernel: pathlib.Path, first: pathlib.Path, disk: pathlib.Path, settings: dict[str, object],
        log: pathlib.Path | None = None,
    ) -> None:  # fmt: skip
        (image,) = kernel.glob("boot/vmlinuz-*")
        words = " ".join(f"power_{name}={value}" for name, value in settings.items())
        drive = f"driver=raw,node-name=disk,discard=ignore,file.driver=file,file.filename={disk}"
        if log:
            log.write_bytes(b"")
            drive = (
                f"driver=blklogwrites,node-name=disk,log-sector-size=512,file.driver=file,file.filename={disk},"
                f"log.driver=file,log.filename={log}"
            )
        else:
            drive += ",cache.direct=on,file.cache.direct=on"  # nothing of it is left in the host's cache
        self.process = subprocess.Popen(
            [
                "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-m", "256",
                "-smp", "2", "-accel", "tcg,thread=multi", "-cpu", "max", "-serial", "stdio", "-kernel", image, "-initrd", first,
                "-append", f"console=ttyS0 quiet panic=-1 mitigations=off {words}", "-blockdev", drive,
                "-device", "virtio-blk-pci,drive=disk,write-cache=on",
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )  # fmt: skip
        self.said: list[str] = []

    def wait_for(self, word: str) -> None:
        """Return when the console says so; RuntimeError with all it said if it ends instead."""
        assert self.process.stdout
        for line in self.process.stdout:
            if not line.startswith("["):  # the kernel's own
                self.said.append(line)
            if line.strip() == word:
                return
        self.process.wait()
        raise RuntimeError("the machine ended before it said " + word + ":\n" + "".join(self.said[-40:]))

    def finish(self) -> None:
        """Return when it has switched itself off."""
        self.process.wait(BOOT_SECONDS)

    def cut(self) -> None:
        """The power goes."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()

