"""The record of the environment that a run is submitted from: variables that explain how it runs, and no secret.

It is a list of what is kept, since no list of exclusions is ever complete.
"""

from __future__ import annotations

from collections.abc import Mapping

from unipool_dist.base.credentials import looks_secret, names_a_secret, without_credentials
from unipool_dist.base.printable import printable

NOT_RECORDED = "(not recorded)"
_NAMES = frozenset(
    {
        *("PATH", "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "PKG_CONFIG_PATH", "MANPATH"),
        *("HOME", "PWD", "SHELL", "USER", "LOGNAME", "HOSTNAME", "HOST", "TERM", "TZ", "TMPDIR", "LANG", "LANGUAGE"),
        *("VIRTUAL_ENV", "MODULEPATH", "LOADEDMODULES", "_LMFILES_", "CC", "CXX", "CUDA_HOME"),
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "MPLCONFIGDIR", "CUBLAS_WORKSPACE_CONFIG"),
    }
)
_BEGINNINGS = (
    *("PYTHON", "CUDA_", "CUDNN_", "NVIDIA_", "NCCL_", "NVTE_", "GLOO_", "TORCH", "PYTORCH_", "TRITON_", "DS_"),
    *("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "UCX_", "FI_", "IBV_", "OMPI_", "MPICH_", "ROCM_", "HIP_", "HSA_"),
    *("SLURM_", "SBATCH_", "SRUN_", "CONDA_", "LMOD_", "LC_", "XDG_", "UNIPOOL_DIST_"),
)


def recorded(variables: Mapping[str, str]) -> list[str]:
    """Return a line ``NAME='value'`` for each variable; of those that are not kept only the name."""
    return [f"{printable(name)}={_value(name, variables[name])}" for name in sorted(variables)]


def _value(name: str, value: str) -> str:
    kept = name in _NAMES or (name.startswith(_BEGINNINGS) and not names_a_secret(name))
    public = without_credentials(value)
    return NOT_RECORDED if not kept or looks_secret(public) else printable(repr(public))
