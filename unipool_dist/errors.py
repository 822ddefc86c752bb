"""Errors a user can cause or must act upon.

Every message says what happened, with the names and values of the fields concerned, and one thing to do about it.
Internal mistakes are ``assert``s and never one of these.
"""

from __future__ import annotations


class UnipoolError(Exception):
    """Base of all errors whose message is meant for the user; the command line prints it without a traceback."""


class ConfigError(UnipoolError):
    """A configuration field is unknown, of the wrong type, or outside its range."""


class TopologyError(UnipoolError):
    """A layout of ranks is impossible for this world, model or pool."""


class ScheduleError(UnipoolError):
    """A schedule leaves work out, runs it twice or too early, or would let ranks wait for each other."""


class DataError(UnipoolError):
    """A corpus, tokenizer or prepared token store is missing, damaged, or does not fit the configuration."""


class CheckpointError(UnipoolError):
    """A checkpoint is missing, damaged, incomplete, or of another model, tokenizer or corpus; or cannot be written."""


class RunLockedError(UnipoolError):
    """Another process is writing into the run directory."""


class CommunicationError(UnipoolError):
    """A collective failed or timed out: usually another rank has died."""


class NonFiniteError(UnipoolError):
    """The loss or the gradient norm is NaN or infinite; no weight has been changed by the step that raised it."""


class RemoteError(UnipoolError):
    """Another rank failed; the message repeats what that rank reported."""
