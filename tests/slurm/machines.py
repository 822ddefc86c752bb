"""The machines of a SLURM cluster that runs: commands on them, and what can befall them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

PROGRAM = Path(__file__).with_name("cluster.sh")


class ClusterError(Exception):
    """A command for the cluster failed; the message says what it said."""


class Machines:
    """Nodes ``n1``, ``n2``, ... and ``login``, where jobs are submitted; ``start`` first, and ``stop`` always.

    ``shared`` is a folder that every user reads and writes on every machine. The interpreter that runs this, its
    packages and the checkout are where they are here, for every user. Other folders may be hidden, and /tmp and
    /dev/shm are each machine's own. The user ``trainer`` exists here alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.shared = folder, folder / "shared"
        self.nodes: tuple[str, ...] = ()

    def start(self, num_nodes: int) -> None:
        """Bring up ``num_nodes`` nodes, which stop by themselves when this process is gone; installs SLURM."""
        # An environment's interpreter may be a link to one in another place.
        paths = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).resolve().parents[1]}
        shown = ":".join(sorted(map(str, paths)))
        self._act("start", str(num_nodes), SLURM_CLUSTER_SHOW=shown, SLURM_CLUSTER_OWNER=str(os.getpid()))
        self.nodes = tuple(f"n{i + 1}" for i in range(num_nodes))

    def stop(self) -> None:
        """Power everything off, and delete the folder."""
        self._act("stop")

    def power_cut(self, node: str) -> None:
        """The node falls silent, as without power: its processes are gone, and no peer is told that they are."""
        self._act("power-cut", node)

    def power_on(self, node: str) -> None:
        """Boot a node whose power was cut."""
        self._act("power-on", node)

    def cut_off(self, node: str) -> None:
        """Take the node off the network; its processes run on."""
        self._act("cut-off", node)

    def reconnect(self, node: str) -> None:
        """Put the node back on the network."""
        self._act("reconnect", node)

    def kill_slurmd(self, node: str) -> None:
        """Kill the node's slurmd; its jobs run on. A power cut and a power-on bring it back."""
        self._act("kill-slurmd", node)

    def _act(self, *arguments: str, **variables: str) -> None:
        done = subprocess.run(
            [PROGRAM, *arguments],
            env={**os.environ, "SLURM_CLUSTER_DIR": str(self.folder), **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            raise ClusterError(done.stderr.strip())

    def environment(self, user: str = "root") -> dict[str, str]:
        """The environment of every command, and so of every job: this interpreter's programs come first on PATH."""
        return {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "USER": user,
            "LOGNAME": user,
            "HOME": str(self.folder / "home" / user),
            "LANG": "C.UTF-8",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def run(
        self,
        command: Sequence[str | Path],
        *,
        user: str = "root",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: str = "",
        check: bool = True,
        timeout_s: float = 60,
        node: str = "login",
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` on ``login`` in the folder ``cwd`` (default: ``shared``).

        It sees ``environment(user)`` and ``env``, and nothing else of ours. With ``check``, raises ClusterError if it
        fails.
        """
        variables = [f"{name}={value}" for name, value in {**self.environment(user), **(env or {})}.items()]
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"]
        within = [*as_user, "env", "--ignore-environment", f"--chdir={cwd or self.shared}", *variables]
        done = subprocess.run(
            [*self._entrance(node), *within, *command],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check and done.returncode:
            words = " ".join(map(str, command))
            raise ClusterError(f"{node}: `{words}` ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def run_on(self, node: str, command: Sequence[str | Path], user: str = "root") -> str:
        """What ``command`` prints on ``node``; raises ClusterError if it fails."""
        return self.run(command, user=user, node=node).stdout

    def _entrance(self, node: str) -> list[str]:
        pid = self._pid(node)
        namespaces = ["--mount", "--uts", "--ipc", "--net", f"--pid=/proc/{pid}/ns/pid_for_children"]
        return ["nsenter", f"--target={pid}", *namespaces, "--"]

    def _pid(self, node: str) -> int:
        """Of the process that made the node's namespaces and ends with them; itself it is outside of them."""
        return int((self.folder / "pid" / node).read_text())

    def is_on(self, node: str) -> bool:
        """Whether the node has power."""
        with suppress(OSError):  # of a process that is gone
            return str(self.folder).encode() in Path(f"/proc/{self._pid(node)}/environ").read_bytes()
        return False

    def has_slurmd(self, node: str) -> bool:
        """Whether the node has power and its slurmd runs."""
        return any(_is_slurmd(process) for process in self._inside(node))

    def processes(self, node: str) -> list[psutil.Process]:
        """What jobs run, or have left behind, on the node; their pids are this machine's. Empty without power."""
        return [process for process in self._inside(node) if not (_is_slurmd(process) or _is_of_boot(process))]

    def _inside(self, node: str) -> list[psutil.Process]:
        if not self.is_on(node):
            return []
        space = _link(f"/proc/{self._pid(node)}/ns/pid_for_children")
        return [process for process in psutil.process_iter() if _link(f"/proc/{process.pid}/ns/pid") == space]


def _link(path: str) -> str | None:
    with suppress(OSError):  # of a process that is gone
        return os.readlink(path)
    return None


def command_of(process: psutil.Process) -> list[str]:
    """Empty for a process that is gone or waits to be reaped."""
    with suppress(psutil.Error):
        return process.cmdline()
    return []


def _is_slurmd(process: psutil.Process) -> bool:
    return Path((command_of(process) or [""])[0]).name == "slurmd"


def _is_of_boot(process: psutil.Process) -> bool:
    """The shell that is the node's first process, and what it waits for; and what is being reaped."""
    command = command_of(process)
    return not command or command[0] == "idle-loop" or any(word.endswith("/node.sh") for word in command[:2])
