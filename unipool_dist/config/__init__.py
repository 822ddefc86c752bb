"""Configuration: sections and their fields, reading and writing, and what follows from the number of processes."""

from unipool_dist.config.load import config_text, dump_config, load_config, named_code
from unipool_dist.config.plan import Outline, Plan
from unipool_dist.config.resolution import outline, resolve, resolve_model
from unipool_dist.config.sections import Config
from unipool_dist.config.written import is_written_config, load_written

__all__ = [
    "Config",
    "Outline",
    "Plan",
    "config_text",
    "dump_config",
    "is_written_config",
    "load_config",
    "load_written",
    "named_code",
    "outline",
    "resolve",
    "resolve_model",
]
