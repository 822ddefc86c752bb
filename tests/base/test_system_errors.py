"""What the operating system refuses is one sentence."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from unipool_dist.base.system_errors import at, explained


@pytest.mark.parametrize("number", [*errno.errorcode])
def test_every_refusal_is_one_line_with_the_path(number: int) -> None:
    sentence = explained(OSError(number, os.strerror(number), "a/b\x1b[2J\nc"))
    assert sentence is not None and "a/b\\x1b[2J\\nc: " in sentence and os.strerror(number) in sentence
    assert "\n" not in sentence and "\x1b" not in sentence


@pytest.mark.parametrize(
    ("number", "advice"),
    [(errno.ENOSPC, "make room"), (errno.EACCES, "owner or mode"), (errno.EMFILE, "ulimit -n"), (errno.ELOOP, "links")],
)
def test_frequent_refusals_say_what_to_do(number: int, advice: str) -> None:
    assert advice in str(explained(OSError(number, os.strerror(number), "x")))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RuntimeError("[../gloo/transport/tcp/device.cc:84] socket: Too many open files"), "raise `ulimit -n`"),
        (ImportError("libtorch.so: cannot open shared object file: Too many open files"), "raise `ulimit -n`"),
        (RuntimeError("can't start new thread"), "raise `ulimit -u`"),
        (RuntimeError("Resource temporarily unavailable"), "raise `ulimit -u`"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "`ulimit -v`"),
        (MemoryError(), "`ulimit -v`"),
        (RuntimeError("[gloo/pair.cc] Resource temporarily unavailable"), None),
        (RuntimeError("Connection reset by peer"), None),
    ],
)
def test_a_limit_is_named_whichever_library_ran_into_it(error: RuntimeError, advice: str | None) -> None:
    sentence = explained(error)
    assert sentence is None if advice is None else advice in str(sentence)


def test_both_names_of_a_rename_are_told(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught:
        (tmp_path / "a").rename(tmp_path / "b")
    assert f"{tmp_path / 'a'} -> {tmp_path / 'b'}: No such file" in str(explained(caught.value))


def test_a_copy_of_a_folder_tells_its_first_failure_and_how_many() -> None:
    error = shutil.Error([("a", "b/a", "[Errno 28] No space left on device"), ("c", "b/c", "the same")])
    assert str(explained(error)).startswith("b/a could not be copied (and 1 more): [Errno 28] No space left on device")


def test_errors_that_libraries_derive_are_not_the_systems() -> None:
    class LibraryError(OSError):
        pass

    assert explained(LibraryError("a server says no")) is None


def test_an_error_of_writing_gets_the_name_and_no_other_is_touched(tmp_path: Path) -> None:
    with pytest.raises(OSError) as full, at(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert full.value.filename == str(tmp_path) and full.value.errno == errno.ENOSPC
    with pytest.raises(FileNotFoundError) as missing, at(tmp_path):
        (tmp_path / "missing").read_text()
    assert missing.value.filename == str(tmp_path / "missing")
