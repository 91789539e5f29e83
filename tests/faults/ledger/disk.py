"""A disk of its own for an installation, which can be full and can hang."""

import asyncio
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

SIZE_BYTES = 2 << 30
STEP_BYTES = 1 << 30


class Disk:
    """A loop file system under `folder`; as anybody but root it is only a folder."""

    def __init__(self, folder: Path) -> None:
        self._image = folder / "disk.img"
        self.path = folder / "disk"
        self.path.mkdir(parents=True)
        self.is_own = self.is_possible()
        self._ballast = self.path / "ballast"
        self._frozen = False

    @staticmethod
    def is_possible() -> bool:
        """Whether we may make file systems."""
        return os.getuid() == 0

    def mount(self) -> None:
        """Makes the file system. It keeps no journal, since no test here takes away the power."""
        if not self.is_own:
            return
        with self._image.open("wb") as file:
            file.truncate(SIZE_BYTES)
        _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(self._image))
        _run("mount", "-o", "loop,noatime", str(self._image), str(self.path))
        shutil.rmtree(self.path / "lost+found")
        self.path.chmod(0o755)

    def fill(self) -> None:
        """Takes all room, to the last byte."""
        with self._ballast.open("ab") as file:
            step, end = STEP_BYTES, 0
            while step >= 1:
                try:
                    os.posix_fallocate(file.fileno(), end, step)
                    end += step
                except OSError:
                    step //= 2

    def free(self) -> None:
        """Gives the room back."""
        with suppress(FileNotFoundError):
            self._ballast.unlink()

    async def freeze(self) -> None:
        """From now on everybody who writes waits."""
        await asyncio.to_thread(_run, "fsfreeze", "--freeze", str(self.path))
        self._frozen = True

    async def thaw(self) -> None:
        """Lets everybody go on."""
        if self._frozen:
            self._frozen = False
            await asyncio.to_thread(_run, "fsfreeze", "--unfreeze", str(self.path))

    def unmount(self) -> None:
        """Throws everything away."""
        if self.is_own:
            # Lazily: a process that was just killed may still hold a file.
            subprocess.run(["umount", "--lazy", self.path], check=False)
            self._image.unlink(missing_ok=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)
