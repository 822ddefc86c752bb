"""What Megatron-core and DeepSpeed would load if it is installed, and nothing here uses, is not loaded."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from unipool_dist.comm.megatron_import import without_trackers


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_trackers_are_not_found_within_and_found_after(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    with without_trackers(), pytest.raises(ImportError):
        importlib.import_module(name)
    mine = importlib.import_module(name)
    assert mine.__file__ == str(tmp_path / f"{name}.py")
    with without_trackers():
        assert importlib.import_module(name) is mine, "what was imported before stays"
    monkeypatch.delitem(sys.modules, name)


def test_the_names_are_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(KeyError), without_trackers():
        raise KeyError
    assert "wandb" not in sys.modules
