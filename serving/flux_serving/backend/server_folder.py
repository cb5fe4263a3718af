"""The private folder of one server, in which the processes of its models share files and sockets.

The launcher sets its path in FLUX_SERVER_FOLDER. Without that variable, the folder is in the temporary folder and named
after Triton, the parent of the models' processes. Only its owner may enter it.
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
        """Returns the server's folder, which is the same in all of its models' processes."""
        if named := environment.get(FOLDER_VARIABLE):
            return cls(Path(named))
        server = os.getppid()
        # Process ids are reused, in a container at every start; the start time makes the name unique.
        started = Path(f"/proc/{server}/stat").read_text().rpartition(")")[2].split()[19]
        return cls(Path(tempfile.gettempdir(), f"flux-triton-server-{server}-{started}"))

    def make(self) -> None:
        """Create the folder unless it exists. Raises CannotStart: it cannot be created, or other users can enter it."""
        try:
            with contextlib.suppress(FileExistsError):
                self.path.mkdir(mode=0o700)
            with self.opened():
                pass
        except OSError as error:
            raise CannotStart(
                f"{self.path} cannot hold the server's files: {error.strerror}; set {FOLDER_VARIABLE} to another folder"
            ) from error

    def remove(self) -> None:
        """Remove the folder if it is empty."""
        with contextlib.suppress(OSError):
            self.path.rmdir()

    @contextlib.contextmanager
    def opened(self) -> Iterator[str]:
        """Yield a path to the folder that stays valid if the folder is renamed.

        The path is short, because the address of a Unix socket has at most 107 bytes.
        Raises OSError: the folder does not exist, or other users can enter it.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
                raise PermissionError(errno.EPERM, "other users can enter it")
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
