"""What somebody without unipool_dist does with exports: ``python elsewhere.py TASK ARGUMENT...``, an answer in JSON.

A program of its own, in which neither unipool_dist nor anything else of the project can be imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM

GREEDY: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


def load(folder: str | Path, **options: Any) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def logits(expected: str, *folders: str) -> dict[str, float]:
    """By folder, the largest difference to the logits that the file ``expected`` has for the folder's name."""
    text, by_name = torch.load(expected)
    found = {}
    for folder in folders:
        model, info = load(folder, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"], info
        with torch.no_grad():
            found[folder] = float((model(text).logits - by_name[Path(folder).name]).abs().max())
    return found


def use(folder: str, scratch: str) -> dict[str, Any]:
    """Everything that is done with a model of transformers; by name, whether or how well it works."""
    model = load(folder)
    text = torch.randint(1, 64, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = {**_generation(model, text), **_other_ways(model, text, folder, scratch)}
    return found | _gradients(model, text) | _adapters(folder, text) | _training(model, scratch)


def write(folder: str, prompt: str, count: str) -> dict[str, Any]:
    """A prompt's tokens, and the text that greedily follows."""
    from transformers import AutoTokenizer

    model, tokenizer = load(folder), AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    inputs = tokenizer(prompt, return_tensors="pt")
    settings = {"max_new_tokens": int(count), "do_sample": False}
    texts = [model.generate(**inputs, use_cache=cache, **settings)[0] for cache in (True, False)]
    found = [tokenizer.decode(text, skip_special_tokens=True) for text in texts]
    names = {name: getattr(tokenizer, f"{name}_token") for name in ("bos", "eos", "pad")}
    return {"tokens": inputs["input_ids"][0].tolist(), "special": names, "with cache": found[0],
            "without cache": found[1]}  # fmt: skip


def harness(folder: str, texts: str) -> list[tuple[float, bool]]:
    """The scores that lm-eval's own model ``hf`` gives to texts: log-probability, and whether it is the likeliest."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=folder, trust_remote_code=True, device="cpu", batch_size=4)
    pairs = enumerate(json.loads(texts))
    found = model.loglikelihood([Instance("loglikelihood", {}, tuple(pair), number) for number, pair in pairs])
    return [(float(logprob), bool(greedy)) for logprob, greedy in found]


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 16, "initializer_range": 0.1, "rms_norm_eps": 1e-4,
    "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2}
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": 16, "max_position_embeddings": 64}),
    "mixtral": ("Mixtral", {**EXPERTS, "num_local_experts": 4}),
    "qwen2": ("Qwen2", {}),
    "scaled": ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
}
"""Models of transformers by name: the class, and what is not in :data:`SIZES`."""


def make(folder: str, expected: str) -> list[str]:
    """Make every model of :data:`MADE` with random weights in ``folder/NAME``; their logits go to ``expected``."""
    text, found = torch.load(expected), {}
    for number, (name, (kind, fields)) in enumerate(MADE.items()):
        torch.manual_seed(number)
        config = getattr(transformers, f"{kind}Config")(**SIZES | fields)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
        with torch.no_grad():
            for value in model.parameters():  # norms and biases too are to be of any value
                value.add_(0.05 * torch.randn_like(value))
            found[name] = model(text).logits
        model.save_pretrained(Path(folder, name), max_shard_size="50KB")
    torch.save(found, expected)
    return list(found)


def _generation(model: Any, text: torch.Tensor) -> dict[str, Any]:
    """Texts without a cache, with one, of fixed size, padded on the left, of several beams."""
    plain = model.generate(text, use_cache=False, **GREEDY)
    blank = torch.zeros(1, 4, dtype=torch.int64)
    padded = torch.cat([text[1:2], torch.cat([blank, text[:1, :5]], dim=1)])
    mask = torch.cat([torch.ones(1, 9), torch.cat([blank, torch.ones(1, 5)], dim=1)]).long()
    side_by_side = model.generate(padded, attention_mask=mask, **GREEDY)
    beams = [model.generate(text, num_beams=3, use_cache=cache, **GREEDY) for cache in (True, False)]
    short = model.generate(text[:1, :5], use_cache=False, **GREEDY)
    return {
        "cache": torch.equal(plain, model.generate(text, **GREEDY)),
        "static cache": torch.equal(plain, model.generate(text, cache_implementation="static", **GREEDY)),
        "left padding": torch.equal(side_by_side[1, 9:], short[0, 5:]) and torch.equal(side_by_side[0], plain[1]),
        "beams": torch.equal(*beams) and not torch.equal(beams[0], plain),
        "drawn": torch.equal(_drawn(model, text), _drawn(model, text)),
        "greedy": plain.tolist(),
    }


def _drawn(model: Any, text: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(5)
    found: torch.Tensor = model.generate(text, do_sample=True, top_k=5, max_new_tokens=5, pad_token_id=0)
    return found


def _other_ways(model: Any, text: torch.Tensor, folder: str, scratch: str) -> dict[str, Any]:
    """Differences of logits to other kernels, types and devices, to packed documents, and after saving."""
    own = model(text).logits
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    apart = torch.cat([model(text[:1, :4]).logits, model(text[:1, 4:]).logits], dim=1)
    places = dict.fromkeys([f"model.layers.{i}" for i in range(4)], "cpu")
    places |= {"model.embed_tokens": "cpu", "model.pools.0": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    half = load(folder, dtype=torch.bfloat16)
    model.save_pretrained(Path(scratch, "saved"))
    ways = {
        "eager": load(folder, attn_implementation="eager", experts_implementation="eager"),
        "batched": load(folder, experts_implementation="batched_mm"),
        "offloaded": load(folder, device_map=places, offload_folder=str(Path(scratch, "offload"))),
        "saved": load(Path(scratch, "saved")),
    }
    found: dict[str, Any] = {name: float((way(text).logits - own).abs().max()) for name, way in ways.items()}
    packed = model(text[:1], position_ids=positions, use_cache=False).logits
    return found | {
        "packed": float((packed - apart).abs().max()),
        "bf16": float((half(text).logits.float() - own).norm() / own.norm()),
        "types": sorted({(name.split(".")[-2], str(value.dtype)) for name, value in half.named_parameters()}),
        "parameters": sum(value.numel() for value in model.parameters()),
        "device_map": sorted(set(ways["offloaded"].hf_device_map.values())),
    }


def _gradients(model: Any, text: torch.Tensor) -> dict[str, Any]:
    """The gradients of every parameter, and with checkpointing in either way."""
    model.train()
    loss = model(text, labels=text).loss
    loss.backward()
    plain = {name: value.grad.clone() for name, value in model.named_parameters()}
    by_hand = torch.nn.functional.cross_entropy(model(text).logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    differences = []
    for reentrant in (False, True):
        model.zero_grad()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model(text, labels=text).loss.backward()
        differences += [float((value.grad - plain[name]).abs().max()) for name, value in model.named_parameters()]
        model.gradient_checkpointing_disable()
    model.zero_grad()
    return {"loss": float(loss - by_hand), "without gradient": sum(not g.any() for g in plain.values()),
            "checkpointing": max(differences)}  # fmt: skip


def _adapters(folder: str, text: torch.Tensor) -> dict[str, Any]:
    """LoRA on attention: which parameters learn."""
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], r=2)
    model = get_peft_model(load(folder), settings)
    model(text, labels=text).loss.backward()
    learning = [name for name, value in model.named_parameters() if value.grad is not None]
    length = model.generate(input_ids=text, **GREEDY).shape[1]
    return {"learning": len(learning), "all lora": all("lora" in name for name in learning), "length": length}


def _training(model: Any, scratch: str) -> dict[str, Any]:
    """The losses of 20 steps of Trainer, and what it left in ``scratch/tuned``."""
    from transformers import Trainer, TrainingArguments

    rows = [{"input_ids": row, "labels": row} for row in ((torch.arange(16) + start) % 64 for start in range(64))]
    settings = TrainingArguments(
        str(Path(scratch, "trainer")), max_steps=20, per_device_train_batch_size=8, learning_rate=1e-2, report_to=[],
        logging_steps=1, use_cpu=True, save_strategy="no", gradient_checkpointing=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, settings, train_dataset=rows)
    trainer.train()
    trainer.save_model(str(Path(scratch, "tuned")))
    return {"losses": [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]}


if __name__ == "__main__":
    sys.modules["unipool_dist"] = None  # type: ignore[assignment]  # which makes its import an ImportError
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    _, task, answer, *arguments = sys.argv
    Path(answer).write_text(json.dumps(globals()[task](*arguments)))
