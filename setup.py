"""Build step: a wheel carries the folders of the checkout that commands need. The rest is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FOLDERS = ("configs", "ds_configs", "launchers", "slurm")
"""Copied into ``unipool_dist/project``, where :mod:`unipool_dist.base.project` finds them."""


class BuildPackage(build_py):
    """Builds the package with the project's folders in it. An editable install uses those of the checkout."""

    def run(self) -> None:
        """Copy the modules, then the folders."""
        super().run()
        if self.editable_mode:
            return
        for source, target in self._project_files().items():
            self.mkpath(str(Path(target).parent))
            self.copy_file(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """Name everything that was built, the folders included."""
        files = [] if self.editable_mode else list(self._project_files().values())
        return [*super().get_outputs(include_bytecode), *files]

    def _project_files(self) -> dict[str, str]:
        target = Path(self.build_lib, "unipool_dist", "project")
        files = (file for folder in FOLDERS for file in sorted(Path(folder).rglob("*")) if file.is_file())
        return {str(file): str(target / file) for file in files}


setup(cmdclass={"build_py": BuildPackage})
