"""Errors that a user can meet; each message says what, got, and what next."""


class RlsegError(Exception):
    """Base of every error that rlseg raises on purpose (exit code 2 on the command line)."""


class ConfigError(RlsegError, ValueError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class ShapeError(RlsegError, ValueError):
    """An array or tensor has the wrong axes, size, or dtype."""


class DatasetNotFoundError(RlsegError, FileNotFoundError):
    """No data where they were looked for; the message says how to get them."""


class CorruptDatasetError(RlsegError, ValueError):
    """A data file is damaged, incomplete, or contradicts its partner."""


class CheckpointError(RlsegError, RuntimeError):
    """A checkpoint is missing, damaged, or belongs to something else."""


class WorkerError(RlsegError, RuntimeError):
    """A worker process died, raised, or fell silent."""


class DivergenceError(RlsegError, RuntimeError):
    """Training met a non-finite number (exit code 3); the last good checkpoint is kept."""
