"""Configuration: sections and their fields, reading and writing, and what follows from the number of processes."""

from unipool_dist.config.load import config_text, dump_config, load_config
from unipool_dist.config.resolve import resolve_config
from unipool_dist.config.sections import Config
from unipool_dist.config.written import is_written_config, load_written

__all__ = ["Config", "config_text", "dump_config", "is_written_config", "load_config", "load_written", "resolve_config"]
