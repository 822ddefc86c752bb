"""Preparation by several processes, in shards and after interruptions: what comes out is the same, to the byte."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.trees import snapshot
from unipool_dist.base.user_code import trust
from unipool_dist.data import prepare as prepare_module
from unipool_dist.data import text_pieces
from unipool_dist.data.building import Ready, Waiting
from unipool_dist.data.place import Place
from unipool_dist.data.prepare import PrepareOptions, prepare, prepare_share
from unipool_dist.data.shares import Share
from unipool_dist.errors import DataError

VOCAB_SIZE = 400


@pytest.fixture(scope="module")
def options(
    tmp_path_factory: pytest.TempPathFactory, make_texts: Callable[..., list[str]], make_jsonl: Callable[..., Path]
) -> PrepareOptions:
    """Three domains: of several files with duplicates and an empty text, of one file, and of one text that is cut."""
    folder = tmp_path_factory.mktemp("sources")
    texts = make_texts(1, 300)
    (folder / "many").mkdir()
    for i in range(5):
        make_jsonl(folder / "many" / f"{i}.jsonl", [*texts[i * 60 : i * 60 + 60], texts[0], ""])
    one = make_jsonl(folder / "one.jsonl", make_texts(2, 100) + texts[:10])
    (folder / "short.txt").write_text("\n\n".join(make_texts(3, 90)))
    sources = {"many": str(folder / "many"), "one": str(one), "short": str(folder / "short.txt")}
    return PrepareOptions(sources=sources, vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def undisturbed(options: PrepareOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """All files of the corpus, as one process makes it in one go."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert prepare(out, options, workers=1)[1]
    return snapshot(out)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """These small corpora are tokenized in several runs, too."""
    monkeypatch.setattr("unipool_dist.data.packing._SMALLEST_RUN", 20_000)


def command(out: Path, options: PrepareOptions, *arguments: str) -> list[str]:
    sources = [f"--source={name}={location}" for name, location in options.sources.items()]
    program = [sys.executable, "-m", "unipool_dist", "data", "prepare", str(out), "--no-progress"]
    return [*program, f"--vocab-size={options.vocab_size}", *sources, *arguments]


@pytest.mark.program
@pytest.mark.parametrize("number", [2, 5])
def test_any_number_of_workers_makes_the_same_corpus(
    number: int, options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    prepare(tmp_path / "out", options, workers=number)
    assert snapshot(tmp_path / "out") == undisturbed
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize("count", [2, 3, 20])
def test_any_number_of_shards_in_any_order_makes_the_same_corpus(
    count: int, options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    out, order = tmp_path / "out", list(range(count))
    random.Random(count).shuffle(order)
    first = prepare_share(out, options, Share(order[0], count), workers=1)
    assert isinstance(first, Waiting) and first.stage == "read" and first.missing
    stages = [prepare_share(out, options, Share(index, count), workers=1) for index in (*order[1:], *order)]
    assert isinstance(stages[-1], Ready)
    assert not out.exists()
    assert prepare(out, options, workers=1)[1]
    assert snapshot(out) == undisturbed


def test_what_shards_leave_undone_is_done_at_the_end(
    options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    prepare_share(tmp_path / "out", options, Share(1, 3), workers=1)
    prepare(tmp_path / "out", options, workers=1)
    assert snapshot(tmp_path / "out") == undisturbed


def test_shards_and_a_whole_preparation_exclude_each_other(options: PrepareOptions, tmp_path: Path) -> None:
    place = Place(tmp_path / "out")
    refused = pytest.raises(DataError, match="another process is preparing")
    with place.shared(), Place(tmp_path / "out").shared(), refused:
        prepare(tmp_path / "out", options)
    with place.locked(), refused:
        prepare_share(tmp_path / "out", options, Share(0, 2))


@pytest.mark.parametrize("text", ["2/2", "-1/2", "1", "a/b", "1/100000", "0/0"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not I/N"):
        Share.parse(text)


def test_shares_are_about_equal_and_none_is_done_twice() -> None:
    sizes = [1000, 1, 1, 900, 100, 1, 500, 490, 30]
    shares = [Share(i, 3).of(range(9), lambda i: sizes[i]) for i in range(3)]
    assert sorted(i for share in shares for i in share) == list(range(9))
    assert max(sum(sizes[i] for i in share) for share in shares) < 1200


class Interrupted(BaseException):
    pass


def stop(*_: object) -> None:
    raise Interrupted


def test_what_was_done_before_an_interruption_is_not_done_again(
    options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after every piece that is written: each is written once in all, and the result is as undisturbed."""
    written: list[str] = []
    replacing = text_pieces.replacing

    def once(path: Path) -> object:
        if written and written[-1] != "stopped" and path.suffix in (".text", ".tokens"):
            written.append("stopped")
            raise Interrupted
        written.append(path.name)
        return replacing(path)

    for module in ("text_pieces", "packing"):
        monkeypatch.setattr(f"unipool_dist.data.{module}.replacing", once)
    stops = 0
    while True:
        try:
            prepare(tmp_path / "out", options, workers=1)
            break
        except Interrupted:
            stops += 1
            assert not (tmp_path / "out").exists()
    names = [name for name in written if name != "stopped"]
    assert len(names) == len(set(names)) and stops > 15
    assert snapshot(tmp_path / "out") == undisturbed


def test_other_options_begin_again_and_leave_nothing_of_before(
    options: PrepareOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_manifest", stop)
        with pytest.raises(Interrupted):
            prepare(tmp_path / "out", options, workers=1)
        before = snapshot(tmp_path / "out.partial/work")
        other = PrepareOptions(sources=options.sources, vocab_size=380)
        with pytest.raises(Interrupted):
            prepare(tmp_path / "out", other, workers=1)
        after = snapshot(tmp_path / "out.partial/work")
    assert len(before) > 20 and not [name for name in before.keys() & after.keys() if "." in name]
    prepare(tmp_path / "out", other, workers=1)
    prepare(tmp_path / "fresh", other, workers=1)
    assert snapshot(tmp_path / "out") == snapshot(tmp_path / "fresh")


@pytest.mark.parametrize("damage", [b"", b"{}\n", b'{"documents": 3}\n', b'{"documents": -1, "text_bytes": 0}\n'])
def test_a_damaged_piece_is_made_again(
    damage: bytes, options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    prepare_share(tmp_path / "out", options, Share(0, 2), workers=1)
    pieces = sorted((tmp_path / "out.partial/work/text").glob("*.keys"))
    pieces[0].write_bytes(damage)
    pieces[1].with_suffix(".text").write_bytes(b"cut")
    prepare(tmp_path / "out", options, workers=1)
    assert snapshot(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("sha256", ["", "of the text"])
def test_a_function_of_the_users_is_asked_again_unless_its_origin_says_it_is_the_same(
    sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"""
import os
from unipool_dist.data.corpus_manifest import Origin
from unipool_dist.data.documents import Document
from unipool_dist.data.sources import Source

def text(cache, run):
    yield Source("own", [Origin(name="own", version="", license="", sha256={sha256!r})], documents)

def documents():
    yield from (Document(str(i), f"{{os.environ['OWN_TEXT']}} {{i}}\\n" * 20) for i in range(64))
"""
    name = f"own_text_{len(sha256)}"
    (tmp_path / f"{name}.py").write_text(own)
    monkeypatch.chdir(tmp_path)
    options = PrepareOptions(corpus=f"{name}:text", vocab_size=275)
    trust([options.corpus])
    monkeypatch.setenv("OWN_TEXT", "first")
    if not sha256:
        with pytest.raises(DataError, match="in shards only if every Origin has a sha256"):
            prepare_share(tmp_path / "out", options, Share(0, 2), workers=1)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "write_manifest", stop)
        with pytest.raises(Interrupted):
            prepare(tmp_path / "out", options, workers=1)
    monkeypatch.setenv("OWN_TEXT", "second")
    manifest, _ = prepare(tmp_path / "out", options, workers=1)
    monkeypatch.setenv("OWN_TEXT", "first" if sha256 else "second")
    assert prepare(tmp_path / "fresh", options, workers=1)[0] == manifest


def test_a_killed_preparation_leaves_no_process_and_the_next_continues(
    options: PrepareOptions, undisturbed: dict[str, object], tmp_path: Path
) -> None:
    """Killed at random moments, by SIGKILL and by Ctrl-C, with two workers."""
    draw = random.Random(7)
    out = tmp_path / "out"
    kills = 0
    while kills < 6:
        process = subprocess.Popen(command(out, options, "--workers=2"), stderr=subprocess.PIPE, start_new_session=True)
        try:
            process.wait(draw.uniform(0.3, 3.0))
        except subprocess.TimeoutExpired:
            kills += 1
            if kills % 2:
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
        assert _gone(process.pid), "a worker has outlived the process that started it"
        if out.exists():
            break
    subprocess.run(command(out, options, "--workers=2"), check=True, timeout=120)
    assert snapshot(out) == undisturbed and os.listdir(tmp_path) == ["out"]


def _gone(session: int) -> bool:
    """Whether all processes of the session are gone, some seconds after its first one."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        alive = []
        for entry in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = entry.read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                alive.append(entry)
        if not alive:
            return True
        time.sleep(0.1)
    return False


def test_a_worker_that_dies_is_an_error_and_what_is_done_is_kept(
    tmp_path: Path,
) -> None:
    source = tmp_path / "big"
    source.mkdir()
    for i in range(2):
        (source / f"{i}.jsonl").write_text("".join(json.dumps({"text": f"{i} {j} " * 300}) + "\n" for j in range(4000)))
    big = PrepareOptions(sources={"big": str(source)}, vocab_size=300)
    process = subprocess.Popen(command(tmp_path / "out", big, "--workers=2"), stderr=subprocess.PIPE, text=True)
    workers: list[int] = []
    while not workers and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split() if b"data.worker" in _command_of(int(pid))]
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and "a worker process ended (SIGKILL)" in said and "fewer --workers" in said, said


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
