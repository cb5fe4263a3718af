"""The private folder of one server, through which the processes of its models exchange files and sockets.

FLUX_SERVER_FOLDER names it, which the launcher sets; without it, it is one under the temporary folder, named after the
parent of the models' processes, which is Triton. Only its owner may enter it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flux_contract.environment import FOLDER_VARIABLE
from flux_contract.errors import CannotStart

if TYPE_CHECKING:
    from typing_extensions import Self


class ServerFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of_server(cls, environment: Mapping[str, str]) -> Self:
        """The same one in every model's process of one server."""
        if named := environment.get(FOLDER_VARIABLE):
            return cls(Path(named))
        server = os.getppid()
        # A process id is used again, in a container at every start; the start time makes the name unique.
        started = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[19]
        return cls(Path(tempfile.gettempdir(), f"flux-triton-server-{server}-{started}"))

    def make(self) -> None:
        """Make the folder unless it exists. Raises CannotStart: it cannot be made, or others can enter it."""
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            with self.opened():
                pass
        except OSError as error:
            raise CannotStart(
                f"{self.path}: no folder for the server's files: {error.strerror}; {FOLDER_VARIABLE} names another"
            ) from error

    def remove(self) -> None:
        """Remove the folder if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def opened(self) -> Iterator[str]:
        """A path to the folder that stays valid if the folder is renamed. It is short: the address of a Unix socket has
        at most 107 bytes. Raises OSError: the folder does not exist, or others can enter it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(errno.EPERM, "others can enter it")
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
