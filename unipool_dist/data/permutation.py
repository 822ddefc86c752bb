"""A permutation of ``range(size)`` that is computed, not kept: any element of it, at any size, in the same time.

A Feistel network whose two halves are numbers below a and b, with ``a * b >= size``, and cycle walking: a result that
is not below ``size`` goes through the network again. That is construction FE2 of Bellare, Ristenpart, Rogaway and
Stegers, *Format-Preserving Encryption* (2009), after Black and Rogaway, *Ciphers with Arbitrary Finite Domains* (2002).
Its round function is BLAKE2b with a key.
"""

from __future__ import annotations

import hashlib
import math
import struct

_ROUNDS = 6
"""Four of random functions make a strong pseudorandom permutation (Luby and Rackoff 1988); small halves get more."""
_MESSAGE = struct.Struct("<BQ")
MAX_SIZE = 1 << 62


class Permutation:
    """The permutation of ``range(size)`` that belongs to ``key``; equal on all machines, for all time."""

    def __init__(self, size: int, key: bytes) -> None:
        assert 1 <= size <= MAX_SIZE
        self.size = size
        self._key = hashlib.blake2b(key, digest_size=32).digest()
        self._low = math.isqrt(size - 1) + 1  # so that a * b is hardly above size, and hardly ever is walked
        self._high = -(-size // self._low)

    def __getitem__(self, index: int) -> int:
        """Return the element at ``index``, in constant time on average."""
        assert 0 <= index < self.size
        while True:
            index = self._network(index)
            if index < self.size:
                return index

    def _network(self, index: int) -> int:
        high, low = divmod(index, self._low)
        for number in range(0, _ROUNDS, 2):
            low = (low + self._hash(number, high)) % self._low
            high = (high + self._hash(number + 1, low)) % self._high
        return high * self._low + low

    def _hash(self, number: int, half: int) -> int:
        return int.from_bytes(
            hashlib.blake2b(_MESSAGE.pack(number, half), key=self._key, digest_size=8).digest(), "little"
        )
