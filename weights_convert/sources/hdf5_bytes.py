"""Bytes that are read at addresses which a file names: never beyond the end."""

from weights_convert.sources import BadFile


class Bytes:
    """Numbers and pieces of ``data``; BadFile for what is not there."""

    def __init__(self, data: bytes):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def at(self, address: int, size: int) -> bytes:
        if address + size > len(self.data):
            raise BadFile(f"{size:,} bytes at {address:,} are wanted, of {len(self.data):,}")
        return self.data[address : address + size]

    def number(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.at(address, size), "little")
