"""The lz4 size of an image's distinct chunks: python distinct.py IMAGE CHUNK_SIZE. Needs the module lz4.

A second opinion on what wherry stores: other code, another lz4, and no encryption. A chunk that does not get smaller
counts in full; one that is all zero does not count.
"""

import hashlib
import sys

import lz4.block


def size(path, chunk):
    seen, total, zeros = set(), 0, bytes(chunk)
    with open(path, "rb", buffering=0) as f:
        while data := f.read(chunk):
            name = hashlib.blake2b(data, digest_size=16).digest()
            if name not in seen and data != zeros[: len(data)]:
                seen.add(name)
                total += min(len(data), len(lz4.block.compress(data, store_size=False)))
    return total


if __name__ == "__main__":
    print(size(sys.argv[1], int(sys.argv[2])))
