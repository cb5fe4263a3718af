"""Reads LoRA adapters from the server's folder and caches recent ones in memory.

Every request checks the files, so new adapters need no restart, and replaced files are read again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from flux_contract.environment import LORA_VARIABLE, shown
from flux_contract.errors import InvalidRequest
from flux_contract.parameters import LORA
from flux_serving.network.lora import Adapter, read_adapter, summed
from flux_serving.network.transformer import Transformer
from flux_serving.sampling.sampling_parameters import Lora

_SUFFIX = ".safetensors"
#: Attempts to read a file that changes while it is read.
_ATTEMPTS = 3


class Version(NamedTuple):
    """Identifies a version of a file. Replacing the file by a rename changes the inode; writing to it changes ctime."""

    name: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


Key = TypeVar("Key")
Kept = TypeVar("Kept")


class Adapters:
    """A cache of adapters and of transformers with adapters. Not thread-safe.

    Jobs hold references to what they use, so evicting an adapter never affects a running job.
    """

    def __init__(self, folder: Path | None, transformer: Transformer, count: int) -> None:
        """folder: None if the server has no adapters. count: adapters, and sums of adapters, to keep in memory."""
        self._folder = folder
        self._transformer = transformer
        self._count = count
        self._read: OrderedDict[Version, Adapter] = OrderedDict()
        self._adapted: OrderedDict[tuple[tuple[Version, float], ...], Transformer] = OrderedDict()

    def adapted(self, loras: Sequence[Lora]) -> Transformer:
        """Returns the transformer with these adapters: the same object for the same adapters while it is cached.

        Raises InvalidRequest: an adapter does not exist, or does not fit this transformer.
        """
        files = [self._file(lora.name) for lora in loras]
        versions = [self._version(file) for file in files]
        key = tuple((version, lora.scale) for version, lora in zip(versions, loras, strict=True))
        if key not in self._adapted:
            read = [self._adapter(file) for file in files]
            key = tuple((version, lora.scale) for (version, _), lora in zip(read, loras, strict=True))
            adapters = [(adapter, lora.scale) for (_, adapter), lora in zip(read, loras, strict=True)]
            self._adapted[key] = self._transformer.adapted(summed(adapters))
        return _used(self._adapted, key, self._count)

    def _adapter(self, file: Path) -> tuple[Version, Adapter]:
        """Returns the file's adapter and the version of the file from which it was read."""
        version = self._version(file)
        if version not in self._read:
            version, adapter = self._read_unchanged(file)
            self._read[version] = adapter
        return version, _used(self._read, version, self._count)

    def _read_unchanged(self, file: Path) -> tuple[Version, Adapter]:
        """Read a file, again if it changed meanwhile: errors in a half-written file do not count.

        Raises InvalidRequest: the file is not a valid adapter, or keeps changing.
        """
        for _ in range(_ATTEMPTS):
            version = self._version(file)
            try:
                adapter = read_adapter(file, self._transformer)
            except InvalidRequest:
                if self._version(file) == version:
                    raise
            else:
                if self._version(file) == version:
                    return version, adapter
        raise InvalidRequest(f"{LORA.name}={shown(file.stem)!r} is being written; retry when the file is complete")

    def _file(self, name: str) -> Path:
        """Returns the adapter's file. A name must be one that the folder lists; it is not used as a path."""
        if self._folder is None:
            raise InvalidRequest(
                f"{LORA.name}={name[:40]!r}, but this server has no adapters; set {LORA_VARIABLE} to their folder"
            )
        found = (file for file in sorted(self._folder.glob(f"*{_SUFFIX}")) if file.is_file())
        files = {shown(file.name).removesuffix(_SUFFIX): file for file in found}
        if name not in files:
            raise InvalidRequest(f"{LORA.name}={name[:40]!r}, expected one of: {', '.join(files)[:1000] or '(none)'}")
        return files[name]

    def _version(self, file: Path) -> Version:
        try:
            found = file.stat()
        except OSError as error:
            raise InvalidRequest(
                f"{LORA.name}={shown(file.stem)!r} was just removed from the server's folder"
            ) from error
        return Version(file.name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _used(kept: OrderedDict[Key, Kept], key: Key, count: int) -> Kept:
    """Returns the value of this key and marks it as recently used.

    Evicts the least recently used ones beyond `count`.
    """
    kept.move_to_end(key)
    while len(kept) > count:
        kept.popitem(last=False)
    return kept[key]
