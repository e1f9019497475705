"""Bytes sealed at rest by AES-256-GCM, and where the key comes from (extra ``keys``)."""

from __future__ import annotations

import os
import re
import secrets
import stat
from pathlib import Path

NONCE, KEY = 12, 32  # bytes; the seal adds a nonce and a tag of 16
VARIABLE = "ADVFACE_KEY"


def seal(data: bytes, key: bytes, about: bytes = b"", nonce: bytes | None = None) -> bytes:
    """``data`` sealed: nonce, ciphertext, tag.

    Args:
      data: what to seal.
      key: 32 random bytes.
      about: what the sealed bytes belong to, as a record's name; it has to be the same to open
        them, so that nobody puts one record into another's place.
      nonce: 12 bytes that seal one item only; random by default.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # an extra: pip install it

    nonce = secrets.token_bytes(NONCE) if nonce is None else nonce
    return nonce + AESGCM(key).encrypt(nonce, data, about)


def unseal(item: bytes, key: bytes, about: bytes = b"") -> bytes:
    """What ``seal`` sealed.

    Raises:
      ValueError: another key, or an item that was changed or belongs to something else.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        return AESGCM(key).decrypt(item[:NONCE], item[NONCE:], about)
    except (InvalidTag, ValueError, TypeError):  # a database column may hold no bytes
        raise ValueError(
            "got a sealed item that does not open; wanted the key that sealed it, and the item "
            "unchanged"
        ) from None


def read_key(path: str | os.PathLike[str] | None = None) -> bytes:
    """The 32 bytes of a key, written as 64 hexadecimal digits.

    Args:
      path: a file that only its owner may read; None for the variable ``ADVFACE_KEY``.

    Raises:
      ValueError: no such file or variable, a file that others may read or that belongs to somebody
        else, or no such digits. The message never shows them.
    """
    if path is None:
        text, where = os.environ.get(VARIABLE), f"the variable {VARIABLE}"
        if text is None:
            raise ValueError(f"got no key; wanted it in {where}, or a file of it")
    else:
        text, where = _private(Path(path)), str(path)
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text.strip()):
        raise ValueError(
            f"got a key in {where} of {len(text.strip())} characters; wanted 64 hexadecimal "
            "digits: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return bytes.fromhex(text.strip())


def _private(path: Path) -> str:
    try:
        # Checked on the opened file: its name may mean another one a moment later.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="ascii") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise ValueError(f"got key file {path}, which is no plain file")
            if about.st_mode & 0o077 or about.st_uid not in (os.geteuid(), 0):
                raise ValueError(
                    f"got key file {path} that others may read (mode "
                    f"{stat.S_IMODE(about.st_mode):o}); wanted one of your own: chmod 600 {path}"
                )
            return file.read(1000)
    except OSError as error:
        raise ValueError(f"got key file {path}, which is unreadable ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ValueError(f"got key file {path}; wanted 64 hexadecimal digits in it") from None
