"""The index beside a corpus, which others may be able to write to: nothing in it is executed, and no wrong one used."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from unipool_dist.data import Corpus, training_dataset
from unipool_dist.data.index_files import fault, load_array, private_folder, seal
from unipool_dist.data.index_size import check_index_size
from unipool_dist.data.sample_index import SampleIndex
from unipool_dist.errors import DataError

S = 32


class Payload:
    """What writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def tokens(corpus: Corpus, cache: Path, spare: Path | None = None) -> torch.Tensor:
    dataset = training_dataset(
        corpus, sequence_length=S, num_samples=20, seed=9, cache_dir=cache, spare_dir=spare or cache / "spare"
    )
    return torch.stack([dataset[i]["tokens"] for i in range(20)])


def as_pickle(path: Path, marker: Path) -> None:
    path.write_bytes(pickle.dumps(Payload(marker)))


def as_objects(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array([Payload(marker)], dtype=object), allow_pickle=True)


def as_archive(path: Path, marker: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.array([Payload(marker)], dtype=object))


def as_pipe(path: Path, marker: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def as_device(path: Path, marker: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def as_link(path: Path, marker: Path) -> None:
    path.rename(path.parents[2] / "elsewhere.npy")
    path.symlink_to(path.parents[2] / "elsewhere.npy")


def as_lie_about_its_size(path: Path, marker: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-4])


def as_floats(path: Path, marker: Path) -> None:
    np.save(path, np.zeros(20))


def as_deep_header(path: Path, marker: Path) -> None:
    header = b"[" * 60_000
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def as_large_hole(path: Path, marker: Path) -> None:
    os.truncate(path, 1 << 42)  # reading it would take the rest of the day


HOSTILE = [as_pickle, as_objects, as_archive, as_pipe, as_device, as_link, as_lie_about_its_size, as_floats]
HOSTILE += [as_deep_header, as_large_hole]


@pytest.mark.parametrize("kind", ["document_index", "sample_index", "shuffle_index"])
@pytest.mark.parametrize("make", HOSTILE)
def test_what_lies_in_the_place_of_an_array_is_neither_run_nor_used(
    make: Callable[[Path, Path], None], kind: str, corpus: Corpus, tmp_path: Path
) -> None:
    expected = tokens(corpus, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    marker = tmp_path / "executed"
    make(folder / f"beta.{kind}.npy", marker)
    with pytest.raises((OSError, ValueError)):  # what a rank does that opens it, whatever rank 0 has seen before
        SampleIndex(corpus, S, 20, 9, dict.fromkeys(corpus.domains, 0.5)).open(str(folder))
    assert torch.equal(tokens(corpus, tmp_path / "cache"), expected)
    assert (folder.parent / f"{folder.name}.refused").is_dir(), "kept for whoever wants to know"
    assert not marker.exists()


@pytest.mark.parametrize("make", [as_pickle, as_objects, as_archive])
def test_a_record_that_fits_the_payload_does_not_help_it(
    make: Callable[[Path, Path], None], corpus: Corpus, tmp_path: Path
) -> None:
    tokens(corpus, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    make(folder / "alpha.shuffle_index.npy", tmp_path / "executed")
    (folder / "index.json").unlink()
    seal(folder, folder.name)
    with pytest.raises(DataError, match="cannot read the training index"):
        tokens(corpus, tmp_path / "cache")
    assert not (tmp_path / "executed").exists()


def other_numbers(folder: Path) -> None:
    path = folder / "beta.shuffle_index.npy"
    data = bytearray(path.read_bytes())
    data[-4:], data[-8:-4] = data[-8:-4], data[-4:]
    path.write_bytes(data)


def one_file_more(folder: Path) -> None:
    (folder / "extra.npy").write_bytes(b"")


def of_another_key(folder: Path) -> None:
    (folder / "index.json").unlink()
    seal(folder, "0" * 24)


def without_record(folder: Path) -> None:
    (folder / "index.json").unlink()


def deep_record(folder: Path) -> None:
    (folder / "index.json").write_text("[" * 100_000)


def record_of_a_file_elsewhere(folder: Path) -> None:
    (folder / "index.json").write_text(f'{{"key": "{folder.name}", "files": {{"../../x": {{}}}}}}')


def written_by_all(folder: Path) -> None:
    folder.chmod(0o777)


CHANGES = [other_numbers, one_file_more, of_another_key, without_record, deep_record, record_of_a_file_elsewhere]
CHANGES += [written_by_all]


@pytest.mark.parametrize("change", CHANGES)
def test_an_index_that_is_not_as_it_was_written_is_built_anew(
    change: Callable[[Path], None], corpus: Corpus, tmp_path: Path
) -> None:
    expected = tokens(corpus, tmp_path / "cache")
    (folder,) = (tmp_path / "cache").iterdir()
    assert fault(folder, folder.name) is None
    change(folder)
    assert fault(folder, folder.name) is not None
    assert torch.equal(tokens(corpus, tmp_path / "cache"), expected)
    assert fault(folder, folder.name) is None


def test_an_index_of_another_user_is_left_alone_and_another_made(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = tokens(corpus, tmp_path / "cache", tmp_path / "run")
    (folder,) = (tmp_path / "cache").iterdir()
    if os.geteuid() == 0:
        os.chown(folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert torch.equal(tokens(corpus, tmp_path / "cache", tmp_path / "run"), expected)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert list((tmp_path / "run").glob("*/index.json"))


def test_a_folder_for_temporary_files_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = private_folder(tmp_path / "made")
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    assert private_folder(made).stat().st_mode & 0o777 == 0o700, "as earlier releases have left it"
    (tmp_path / "link").symlink_to(made)
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(DataError, match="not a usable folder"):
            private_folder(tmp_path / name)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(DataError, match="belongs to another user"):
        private_folder(made)


@pytest.mark.parametrize(
    ("samples", "message"), [({"beta": 10**15}, "repeated"), ({"alpha": 10**12, "beta": 1}, "repeated|of memory")]
)
def test_an_index_without_bounds_is_refused_before_it_is_begun(
    samples: dict[str, int], message: str, corpus: Corpus
) -> None:
    with pytest.raises(DataError, match=message):
        check_index_size(corpus, S, samples)


def test_arrays_of_another_shape_are_no_index(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 2), dtype=np.int32))
    assert load_array(tmp_path / "a.npy", 2).shape == (2, 2)
    with pytest.raises(ValueError, match="instead of the numbers of an index"):
        load_array(tmp_path / "a.npy", 1)
