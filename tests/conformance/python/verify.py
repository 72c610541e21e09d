"""Verifies a log directory with `cryptography` for the signature and `pymerkle` for the tree: python verify.py DIR"""

import base64
import hashlib
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymerkle import InmemoryTree


def entries(directory: Path, size: int):
    for first in range(0, size, 256):
        width = min(256, size - first)
        data = (directory / tile("entries", first // 256, width)).read_bytes()
        while data:
            length = int.from_bytes(data[:2], "big")
            yield data[2 : 2 + length]
            data = data[2 + length :]


def tile(kind: str, index: int, width: int) -> str:
    digits = f"{index:03}"
    digits = digits.zfill(-(-len(digits) // 3) * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    path = "/".join(["x" + group for group in groups[:-1]] + groups[-1:])
    return f"tile/{kind}/{path}" + ("" if width == 256 else f".p/{width}")


def checkpoint(directory: Path):
    name, key_id, key = (directory / "log.vkey").read_text().strip().split("+", 2)
    public = base64.b64decode(key)
    assert public[0] == 1, "Ed25519"
    assert hashlib.sha256(name.encode() + b"\n" + public).digest()[:4].hex() == key_id, "key id"
    text, _, signatures = (directory / "checkpoint").read_text().rpartition("\n\n")
    text += "\n"
    dash, signer, signature = signatures.split()
    raw = base64.b64decode(signature)
    assert (dash, signer, raw[:4].hex()) == ("\u2014", name, key_id), "whose signature"
    Ed25519PublicKey.from_public_bytes(public[1:]).verify(raw[4:], text.encode())
    origin, size, root = text.split("\n")[:3]
    assert origin == name, "origin"
    return origin, int(size), base64.b64decode(root)


def main() -> None:
    directory = Path(sys.argv[1])
    origin, size, root = checkpoint(directory)
    tree = InmemoryTree(algorithm="sha256")
    for entry in entries(directory, size):
        tree.append_entry(entry)
    assert tree.get_size() == size, "number of entries"
    computed = tree.get_state() if size else hashlib.sha256().digest()
    assert computed == root, "root"
    print(f"verified: {size} entries of {origin}")


main()
