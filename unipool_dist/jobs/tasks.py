"""The srun command that starts a run's tasks: pure, from the job folder, the layout and the profile."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from unipool_dist.base.credentials import KEY, new_key
from unipool_dist.base.run_directory import RunDirectory
from unipool_dist.config.staging import corpus_paths
from unipool_dist.jobs.folder import JobFolder
from unipool_dist.jobs.profile import Profile
from unipool_dist.jobs.task_layout import Layout

_DOCTOR_MEASURES_S = 120


def train_command(folder: JobFolder, run_dir: Path, layout: Layout) -> list[str]:
    """Train the run in ``run_dir``, from its newest checkpoint if it has one."""
    return _command(folder, layout, [str(RunDirectory(run_dir).job_config), "--resume"])


def doctor_command(folder: JobFolder, run_dir: Path, layout: Layout) -> list[str]:
    """Examine the nodes as the run will use them; the result is written to a file.

    All tasks end with 0 then: by `--kill-on-bad-exit` the first to end with another status would have the others
    killed, and the step would end with the status of a task that was killed by a signal.
    """
    timeout_s = layout.plan.parallel.timeout_s
    return _command(
        folder,
        layout,
        [
            "doctor",
            str(RunDirectory(run_dir).job_config),
            f"--timeout={timeout_s:g}",
            f"--time-limit={timeout_s + _DOCTOR_MEASURES_S:g}",  # that counts the waiting for the last task, too
            f"--status-file={RunDirectory(run_dir).doctor_status}",
        ],
    )


def task_environment(variables: Mapping[str, str], profile: Profile, layout: Layout, port: str) -> dict[str, str]:
    """Return ``variables``, a key of the run, and where the tasks meet: on the first node, at ``port``."""
    alone = len(layout.nodes) == 1  # then nobody else has to reach them
    meeting = {"MASTER_ADDR": "127.0.0.1" if alone else layout.nodes[0], "MASTER_PORT": port, KEY: new_key()}
    interface = None if alone else profile.network_interface
    interfaces = {} if interface is None else {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    # After `sbatch --export=NONE` srun would start the tasks without any of this.
    return {**variables, **interfaces, **meeting, "SLURM_EXPORT_ENV": "ALL"}


def _command(folder: JobFolder, layout: Layout, arguments: list[str]) -> list[str]:
    profile = folder.profile()
    per_node = min(layout.tasks_per_node, layout.num_tasks)
    if profile.launcher == "torchrun":  # equally many on every node, which may be fewer than there is room for
        per_node = layout.num_tasks // len(layout.nodes)
    srun = [
        "srun",
        "--kill-on-bad-exit=1",  # else the other tasks wait for the one that is gone
        "--label",
        f"--nodes={len(layout.nodes)}",
        f"--nodelist={','.join(layout.nodes)}",
    ]
    if profile.launcher == "srun":
        srun += [f"--ntasks={layout.num_tasks}", f"--ntasks-per-node={per_node}", "--distribution=block"]
        launcher = [str(folder.files.launchers / "srun.sh")]
    else:
        srun += [f"--ntasks={len(layout.nodes)}", "--ntasks-per-node=1"]
        launcher = [str(folder.files.launchers / "torchrun.sh"), "--nproc", str(per_node)]
    # Which srun takes from sbatch depends on its version, and with a range of nodes sbatch was given another number.
    srun.append(f"--cpus-per-task={(profile.cpus_per_task or 1) * (1 if profile.launcher == 'srun' else per_node)}")
    folders = [str(folder.run_dir), *corpus_paths(layout.plan.config)]
    return [*srun, *profile.srun, *_inside(profile, folder, folders, [*launcher, *arguments])]


def _inside(profile: Profile, folder: JobFolder, folders: list[str], command: list[str]) -> list[str]:
    """Return ``command``, in the profile's container if there is one. srun options come first for pyxis."""
    container = profile.container
    if container is None:
        return command
    mounts = [*(f"{path}:{path}" for path in folders), *container.mounts]
    # An image sets a PATH of its own; `unipool-dist` is the frozen code under the image's interpreter.
    inside = ["bash", "-c", f"PATH={shlex.quote(str(folder.files.programs))}:$PATH exec {shlex.join(command)}"]
    if container.runtime == "pyxis":
        return [f"--container-image={container.image}", f"--container-mounts={','.join(mounts)}", *inside]
    binds = [f"--bind={mount}" for mount in mounts]
    nv = ["--nv"] if folder.read().gpus_per_node else []
    return ["apptainer", "exec", *nv, *binds, container.image, *inside]
