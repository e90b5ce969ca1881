"""Bytes that a compiled program moves between a device's memory and its cores.

XLA's own estimate counts a look-up in a table for reading all of it, and each of the slices by
which a TPU fetches an array ahead for reading the whole array. Here the compiled program is read,
instruction by instruction, with the memory that each array lies in. Still a bound from above: what
a GPU's cache holds from one instruction to the next is counted as written and read.
"""

import math
import re
from collections import defaultdict
from typing import NamedTuple

_WIDTHS = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
}
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_LINE = re.compile(r"^\s+(ROOT )?%([\w.-]+) = (.*?) ([\w-]+)\((.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body)=%?([\w.-]+)")
_NOTHING = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "iota",
    "parameter",
    "partition-id",
    "tuple",
}


class _Instruction(NamedTuple):
    name: str
    shape: str
    kind: str
    operands: list[str]
    rest: str
    root: bool


class Program:
    """A compiled program; `text` is its `as_text()`."""

    def __init__(self, text: str):
        self._computations: dict[str, dict[str, _Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            if head := _HEAD.match(line):
                current = self._computations[head[2]] = {}
                self.entry = head[2] if head[1] else self.entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (found := _LINE.match(line)):
                root, name, shape, kind, rest = found.groups()
                operands = re.findall(r"%([\w.-]+)", rest.split("), ")[0])
                current[name] = _Instruction(name, shape, kind, operands, rest, bool(root))

    def loop(self) -> str:
        """The body of the largest loop."""
        bodies = [
            _CALLED.search(one.rest[one.rest.index("body=") :])[1]
            for computation in self._computations.values()
            for one in computation.values()
            if one.kind == "while"
        ]
        return max(bodies, key=lambda name: len(self._computations[name]))

    def bytes_moved(self, computation: str, *, loops: bool = True) -> int:
        """Of one run of a computation, with those that it calls; a loop counts once, or not."""
        here = self._computations[computation]
        return sum(self._of(one, here, loops) for one in here.values() if one.kind not in _NOTHING)

    def _of(self, one: _Instruction, here: dict[str, _Instruction], loops: bool) -> int:
        operands = [here[name].shape for name in one.operands]
        if one.kind.endswith(("-done", "-update")):
            return 0  # counted where it starts
        if one.kind in ("copy-start", "slice-start"):
            (size, near), (other, other_near) = _arrays(one.shape)[:2]
            return min(size, other) * ((not near) + (not other_near))
        if one.kind == "dynamic-update-slice":  # in place
            written = sum(size for size, _ in _arrays(operands[1]))
            return _far(operands[1]) + (written if _far(one.shape) else 0)
        if one.kind == "while" and not loops:
            return 0
        if one.kind == "conditional":
            raise NotImplementedError(f"{one.name}: which branch runs is not known")
        if one.kind in ("while", "call", "async-start"):
            called = _CALLED.findall(one.rest)
            return sum(self.bytes_moved(name) for name in called if name in self._computations)
        if one.kind == "fusion":
            return self._of_fusion(one, operands)
        made = one.shape
        if one.kind == "custom-call" and made.startswith("("):
            made = re.sub(r"[su]8\[[\d,]*\](\{[^}]*\})?", "", made)  # room for a library to work
        results = _arrays(made)
        if one.kind.endswith("-start") and made.startswith("("):
            # a collective, whose shape begins with what it reads and may end with flags
            results = results[len(operands) : 2 * len(operands)]
        return sum(map(_far, operands)) + sum(size for size, near in results if not near)

    def _of_fusion(self, one: _Instruction, operands: list[str]) -> int:
        inside = self._computations[_CALLED.search(one.rest)[1]]
        users: dict[str, list[_Instruction]] = defaultdict(list)
        for instruction in inside.values():
            for name in instruction.operands:
                users[name].append(instruction)

        def read(name: str) -> int | None:
            """Bytes of a parameter that are looked at; None: all."""
            total = 0
            for user in users[name]:
                first = user.operands[0] == name
                if user.kind in ("bitcast", "convert"):
                    part = read(user.name)
                elif first and user.kind in ("dynamic-slice", "gather", "slice"):
                    part = sum(size for size, _ in _arrays(user.shape))
                else:
                    part = 0 if first and user.kind == "dynamic-update-slice" else None
                if part is None:
                    return None
                total += part
            return total

        moved = 0
        for instruction in inside.values():
            if instruction.kind == "parameter":
                whole = _far(operands[int(instruction.rest.split(")")[0])])
                part = read(instruction.name)
                moved += whole if part is None else min(part, whole)
        root = next(instruction for instruction in inside.values() if instruction.root)
        roots = [inside[name] for name in root.operands] if root.kind == "tuple" else [root]
        for made, (size, near) in zip(roots, _arrays(one.shape), strict=False):
            while made.kind == "bitcast":
                made = inside[made.operands[0]]
            if made.kind == "dynamic-update-slice":
                size = sum(part for part, _ in _arrays(inside[made.operands[1]].shape))
            moved += 0 if near else size
        return moved


def _arrays(shape: str) -> list[tuple[int, bool]]:
    """(bytes, whether it lies in memory on the chip) of each array of a shape."""
    return [
        (_WIDTHS[kind] * math.prod(int(size) for size in sizes.split(",") if size), "S(" in layout)
        for kind, sizes, layout in _ARRAY.findall(shape)
        if kind in _WIDTHS
    ]


def _far(shape: str) -> int:
    return sum(size for size, near in _arrays(shape) if not near)
