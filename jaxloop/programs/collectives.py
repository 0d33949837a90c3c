"""The collectives of a compiled program: what its devices send each other, read from its HLO text."""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind in a program.

    Attributes:
      kind: as `"all-reduce"`.
      count: how many run. A fraction if not each step of several has one.
      bytes: of their results on one device, all together. Of an all-gather that is what is gathered, of a
        reduce-scatter what is left.
      in_loop: whether they stand in a loop of a length that the program does not tell. Then `count` and `bytes` are
        those of one turn.
    """

    kind: str
    count: float
    bytes: float
    in_loop: bool = False

    def __str__(self) -> str:
        turn = " in each turn of a loop" if self.in_loop else ""
        return f"{self.count:.4g} {self.kind} of {self.bytes / 1e6:.4g} MB{turn}"


def collectives_of(hlo_text: str, steps: int = 1) -> tuple[Collective, ...]:
    """The collectives of an optimized program, one entry for each kind, the most bytes first.

    An asynchronous one counts once. One that takes several arrays counts once, with the bytes of all. What stands in
    the body of a loop counts as often as the body runs. Of branches the one with the most bytes counts.

    Args:
      hlo_text: of the optimized program, as `compiled.as_text()`.
      steps: how many training steps the program takes; counts and bytes are those of one.

    Example:
      >>> collectives_of(jitted.lower(*arguments).compile().as_text())
      (Collective(kind='all-reduce', count=1.0, bytes=1038560.0, in_loop=False),)
    """
    module = _Module.parsed(hlo_text)
    sums: dict[tuple[str, bool], tuple[float, float]] = {}
    for found in module.found_in(module.entry):
        count, size = sums.get((found.kind, found.in_loop), (0.0, 0.0))
        sums[found.kind, found.in_loop] = count + found.count / steps, size + found.bytes / steps
    collectives = (Collective(kind, count, size, loops) for (kind, loops), (count, size) in sums.items())
    return tuple(sorted(collectives, key=lambda one: -one.bytes))


class _Instruction(NamedTuple):
    """One line of a computation. `rest` is what follows the opcode's bracket: operands and attributes."""

    name: str
    type: str
    opcode: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """The names of its operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.split(")", 1)[0])

    def called(self, attribute: str) -> str:
        """The computation that an attribute names; "" if there is none."""
        found = re.search(rf"\b{attribute}=%?([\w.\-]+)", self.rest)
        return found[1] if found else ""


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")
_LINE = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLS = {"fusion": "calls", "async-start": "calls", "call": "to_apply", "custom-call": "called_computations"}


@dataclass(frozen=True)
class _Module:
    """An HLO module.

    Attributes:
      entry: the name of the computation that is the program.
      computations: the instructions of each computation by name.
    """

    entry: str
    computations: Mapping[str, dict[str, _Instruction]] = field(repr=False)

    @classmethod
    def parsed(cls, text: str) -> "_Module":
        """The module of a text.

        Raises:
          ValueError: it is no HLO.
        """
        computations: dict[str, dict[str, _Instruction]] = {}
        entry, current = "", None
        for line in text.splitlines():
            if line.endswith("{") and (header := _HEADER.match(line)):
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
            elif current is not None and (found := _LINE.match(line)):
                root, name, kind, opcode, rest = found.groups()
                current[name] = _Instruction(name, kind, opcode, rest, bool(root))
        if not entry:
            raise ValueError(
                f"collectives_of: the text has no ENTRY, so it is no HLO: {text[:60]!r}. Give compiled.as_text()."
            )
        return cls(entry, computations)

    def found_in(self, name: str) -> list[Collective]:
        """The collectives that run with a computation, one by one."""
        found: list[Collective] = []
        # libtpu writes an asynchronous one several times: in the fusion that starts it, in those that go on with it,
        # and in the one that waits. All have its channel.
        channels: set[tuple[str, str]] = set()  # with the kind, since libtpu gives one number to two kinds
        for instruction in self.computations.get(name, {}).values():
            here = list(self._with_channels(instruction))
            found += [one for one, channel in here if (one.kind, channel) not in channels]
            channels |= {(one.kind, channel) for one, channel in here if channel}
        return found

    def _with_channels(self, instruction: _Instruction) -> Iterator[tuple[Collective, str]]:
        """The collectives that run with an instruction; with its channel one that stands in a fusion."""
        opcode = instruction.opcode
        kind = opcode.removesuffix("-start")
        if kind in KINDS:
            yield Collective(kind, 1, _bytes(_result(instruction))), ""
        elif opcode == "while":
            yield from ((one, "") for one in self._in_loop(instruction))
        elif opcode == "conditional":
            branches = [self.found_in(name) for name in _branches(instruction)]
            yield from ((one, "") for one in max(branches, key=_bytes_of_all, default=[]))
        elif opcode in _CALLS:
            called = instruction.called(_CALLS[opcode])
            if opcode == "fusion" and called.startswith("all-reduce-scatter"):  # as libtpu names it
                yield Collective("reduce-scatter", 1, _bytes(instruction.type)), ""
            elif opcode == "fusion":
                yield from self._in_fusion(called)
            else:
                yield from ((one, "") for one in self.found_in(called))

    def _in_fusion(self, name: str) -> Iterator[tuple[Collective, str]]:
        for inner in self.computations.get(name, {}).values():
            channel = re.search(r"\bchannel_id=(\d+)", inner.rest)
            yield from ((one, channel[1] if channel else "") for one, _ in self._with_channels(inner))

    def _in_loop(self, loop: _Instruction) -> Iterator[Collective]:
        """What runs with a loop: its body as often as it turns, or once and marked."""
        body = self.found_in(loop.called("body"))
        if not body:
            return
        turns = self._turns(loop)
        for one in body:
            if one.in_loop or turns is None:
                yield Collective(one.kind, one.count, one.bytes, True)
            else:
                yield Collective(one.kind, one.count * turns, one.bytes * turns)

    def _turns(self, loop: _Instruction) -> int | None:
        """How often the body of a loop runs; None if that is not known.

        XLA notes it for CPUs and GPUs. libtpu does not: there the loop must count from one constant to another.
        """
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
        if known:
            return int(known[1])
        condition, body = (self.computations.get(loop.called(name), {}) for name in ("condition", "body"))
        test, after = _root(condition), _root(body)
        if test is None or test.opcode != "compare" or "direction=LT" not in test.rest or after is None:
            return None
        counter, limit = (_source(condition, name) for name in test.operands)
        place, end = _place(counter), _constant(limit)
        if place is None or end is None or after.opcode != "tuple":
            return None
        step = _step(body, _source(body, after.operands[place]), place)
        outside = next(each for each in self.computations.values() if each.get(loop.name) is loop)
        before = _source(outside, loop.operands[0])
        start = (
            None if before is None or before.opcode != "tuple" else _constant(_source(outside, before.operands[place]))
        )
        if step is None or start is None or step < 1:
            return None
        return max(0, math.ceil((end - start) / step))


def _root(computation: Mapping[str, _Instruction]) -> _Instruction | None:
    return next((each for each in computation.values() if each.root), None)


def _source(computation: Mapping[str, _Instruction], name: str) -> _Instruction | None:
    """The instruction that made a value, before it was copied."""
    found = computation.get(name)
    while found is not None and found.opcode in ("copy", "copy-start", "copy-done", "bitcast"):
        found = computation.get(found.operands[0])
    return found


def _place(instruction: _Instruction | None) -> int | None:
    """Which part of the loop's state a value is; None if it is something else."""
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    found = re.search(r"\bindex=(\d+)", instruction.rest)
    return int(found[1]) if found else None


def _constant(instruction: _Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant":
        return None
    found = re.match(r"(-?\d+)\)", instruction.rest)
    return int(found[1]) if found else None


def _step(body: Mapping[str, _Instruction], added: _Instruction | None, place: int) -> int | None:
    """By how much a body adds to the part of its state at `place`; None if it does something else with it."""
    if added is None or added.opcode != "add":
        return None
    one, other = (_source(body, name) for name in added.operands)
    if _place(one) != place:
        one, other = other, one
    return _constant(other) if _place(one) == place else None


def _branches(instruction: _Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", instruction.rest)
    if listed:
        return re.findall(r"[\w.\-]+", listed[1])
    return [instruction.called(name) for name in ("true_computation", "false_computation")]


def _bytes_of_all(collectives: list[Collective]) -> float:
    return sum(one.bytes for one in collectives)


def _result(instruction: _Instruction) -> str:
    """The type of a collective's result. What starts one gives (operands, results, ...), but for an all-reduce."""
    if instruction.opcode in ("all-reduce", "all-reduce-start") or not instruction.opcode.endswith("-start"):
        return instruction.type
    parts = _parts(instruction.type)
    return parts[1] if len(parts) > 1 else instruction.type


def _parts(kind: str) -> list[str]:
    """The types in a tuple type."""
    if not kind.startswith("("):
        return [kind]
    parts, depth, start = [], 0, 1
    for place, letter in enumerate(kind):
        depth += (letter in "([{") - (letter in ")]}")
        if (letter == "," and depth == 1) or depth == 0:
            parts.append(kind[start:place].strip())
            start = place + 1
    return parts


def _bytes(kind: str) -> int:
    """The bytes of a type, without the padding of its layout."""
    found = re.findall(r"\b([a-z]\w*)\[([\d,<=]*)\]", kind)
    return math.ceil(
        sum(
            math.prod(int(size.lstrip("<=")) for size in sizes.split(",") if size) * _bits(name)
            for name, sizes in found
        )
        / 8
    )


def _bits(name: str) -> int:
    """Of one number: `f32`, `bf16`, `s4`, `f8e4m3fn` and so on say it themselves."""
    if name == "pred":
        return 8
    found = re.match(r"[a-z]+(\d+)", name)
    return int(found[1]) if found else 0
