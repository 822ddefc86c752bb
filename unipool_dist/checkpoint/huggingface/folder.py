"""A folder that transformers loads a model from: which files it has besides the weights, and what is in them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unipool_dist.base.writing import write_durably
from unipool_dist.checkpoint.huggingface.config_json import (
    CONFIG_JSON,
    MODELLING_FILE,
    PUBLIC_CLASSES,
    ClassName,
    check_class,
    public_config,
)
from unipool_dist.checkpoint.huggingface.model_card import MODEL_CARD, model_card
from unipool_dist.checkpoint.huggingface.names import Public, public_tensors
from unipool_dist.checkpoint.huggingface.tokenizer import (
    TOKENIZER_CLASS,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    write_tokenizer,
)
from unipool_dist.checkpoint.offline.export_format import Dtype, ExportRecord
from unipool_dist.config.plan import Plan
from unipool_dist.data.tokenizer import TOKENIZER_FILES, Tokenizer
from unipool_dist.errors import DataError

GENERATION_CONFIG = "generation_config.json"
FURTHER_FILES = (
    CONFIG_JSON,
    GENERATION_CONFIG,
    MODELLING_FILE,
    MODEL_CARD,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
)
"""What may be there besides weights, and what every export has."""
_TORCH_NAMES: Mapping[Dtype, str] = {"fp32": "float32", "bf16": "bfloat16"}


class HuggingFaceForm:
    """The form in which ``AutoModelForCausalLM`` loads a model, of our class or of one of transformers.

    Args:
        losses: by domain, the validation loss in nats per token that the run recorded at this step.
    """

    def __init__(self, class_name: ClassName = "unipool", losses: Mapping[str, float] | None = None) -> None:
        self._class_name: ClassName = class_name
        self._losses = losses or {}

    def tensors(self, plan: Plan) -> list[Public]:
        """Return the tensors as the class names them; errors as of :func:`check_class`."""
        check_class(plan, self._class_name)
        return public_tensors(plan, PUBLIC_CLASSES[self._class_name].dialect)

    def describe(self, folder: Path, plan: Plan, record: ExportRecord) -> tuple[Sequence[str], str | None]:
        """Write configurations, modelling file, tokenizer and model card; see :class:`Form`."""
        tokenizer, written, missing = _tokenizer(folder, plan, record)
        config = public_config(plan, self._class_name, _TORCH_NAMES[record.dtype])
        generation: dict[str, Any] = {}
        if tokenizer is not None:
            ends = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"), tokenizer.eod)
            config |= {**ends, "tokenizer_class": TOKENIZER_CLASS}
            generation |= ends
            if plan.model.vocab_size > tokenizer.vocab_size:  # what was padded was never trained
                generation["suppress_tokens"] = list(range(tokenizer.vocab_size, plan.model.vocab_size))
        config["tokenizer_hash"] = record.tokenizer_hash
        _write_json(folder / CONFIG_JSON, config)
        _write_json(folder / GENERATION_CONFIG, generation)
        if self._class_name == "unipool":
            shutil.copyfile(Path(__file__).with_name(MODELLING_FILE), folder / MODELLING_FILE)
            written.append(MODELLING_FILE)
        write_durably(folder / MODEL_CARD, model_card(plan, record, self._class_name, self._losses))
        return [*written, CONFIG_JSON, GENERATION_CONFIG, MODEL_CARD], missing


def _tokenizer(folder: Path, plan: Plan, record: ExportRecord) -> tuple[Tokenizer | None, list[str], str | None]:
    """Write the tokenizer; return it and the names of its files, or why there is none."""
    kinds = [kind for kind, names in TOKENIZER_FILES.items() if names == record.tokenizer_files]
    if not kinds or record.tokenizer_hash is None:
        return None, [], None  # the export has said why
    try:
        return *write_tokenizer(folder, kinds[0], record.tokenizer_hash, plan.model.sequence_length), None
    except DataError as error:
        return None, [], str(error)


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    write_durably(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
