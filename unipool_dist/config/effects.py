"""Settings that change nothing, because of others: a slip that nobody would notice otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from unipool_dist.config.roles import flat, settings_of
from unipool_dist.config.sections import Config

_OF_WSD = ("wsd_decay_steps", "wsd_decay")


def settings_without_effect(config: Config) -> list[str]:
    """Return a sentence for each field that the user has set, to other than its default, and that changes nothing.

    ``config`` is as it was loaded: one with its sizes filled in no longer shows what was set.
    """
    values, fields = flat(config), settings_of(Config)
    return [
        f"{name}={values[name]} has no effect, as {reason}"
        for name, reason in _idle(config)
        if _is_set(config, name) and values[name] != fields[name].default
    ]


def _idle(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the name of every field that changes nothing, and why; a class of the user's own may use any."""
    optimizer, pool = config.optimizer, config.pool
    if optimizer.name == "adamw":
        yield "optimizer.momentum", "optimizer.name=adamw"
    if optimizer.name == "sgd":
        yield from ((f"optimizer.{name}", "optimizer.name=sgd") for name in ("beta1", "beta2", "epsilon"))
    if optimizer.decay == "constant":
        yield "optimizer.min_lr", "optimizer.decay=constant"
    if optimizer.decay != "wsd":
        yield from ((f"optimizer.{name}", f"optimizer.decay={optimizer.decay}") for name in _OF_WSD)
    if pool.router == "none":
        yield "optimizer.router_lr_scale", "pool.router=none"
        yield "pool.normalize_gates", "pool.router=none"
        if pool.router_init_std != config.model.init_std:  # as it is where it was filled in
            yield "pool.router_init_std", "pool.router=none"
    if pool.placement == "contiguous":
        yield "pool.placement_steps", "pool.placement=contiguous"
    if pool.balance.loss == "none":
        yield "pool.balance.alpha", "pool.balance.loss=none"
        yield "pool.balance.scores", "pool.balance.loss=none"
    if pool.balance.loss in ("layer", "none"):
        yield "pool.balance.window", f"pool.balance.loss={pool.balance.loss}"
    if config.train.eval_sequences == 0:
        yield "train.eval_interval", "train.eval_sequences=0"
    if config.checkpoint.keep_last == 0:
        yield "checkpoint.keep_every", "checkpoint.keep_last=0 keeps all"
    elif config.checkpoint.interval == 0:
        yield "checkpoint.keep_every", "checkpoint.interval=0 saves at the end or a stop only"
    if not config.log.sinks:
        yield from ((f"log.{name}", "log.sinks=[]") for name in ("online", "project"))
    if config.log.profile_steps is None:
        yield "log.profile_ranks", "log.profile_steps=null"
    if config.run.watchdog_s is not None and config.run.watchdog_s >= config.parallel.timeout_s:
        yield "run.watchdog_s", f"parallel.timeout_s={config.parallel.timeout_s} comes first"


def _is_set(config: Config, name: str) -> bool:
    *sections, field = name.split(".")
    section = config
    for each in sections:
        section = getattr(section, each)
    return field in section.model_fields_set
