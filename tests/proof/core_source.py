"""The core's arithmetic, read from its own source, and run on ints or on symbols.

A part of the core is Cython. Its small functions without shared memory use little of the language that Python has not:
types, casts and addresses are taken out of the text, and what is left is either run as Python (the reading of a
description), or evaluated statement by statement on z3's bit vectors (what is to be proved). So a proof is about the
text that ships, and not about a second one.
"""

from __future__ import annotations

import ast
import operator
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import z3

import ptl

CORE = Path(__file__).parents[2] / "src" / "ptl" / "core"
BITS = 64


# -- unsigned and signed numbers of 64 bits ----------------------------------------------------------------------------


class Number:
    """A C integer of 64 bits whose value is a term of z3."""

    def __init__(self, term: z3.BitVecRef, *, signed: bool = False):
        self.term, self.signed = term, signed

    @classmethod
    def of(cls, value: Number | int | bool | z3.BoolRef) -> Number:
        """Any operand, as C would convert it."""
        if isinstance(value, Number):
            return value
        if isinstance(value, z3.BoolRef):
            return cls(z3.If(value, z3.BitVecVal(1, BITS), z3.BitVecVal(0, BITS)))
        return cls(z3.BitVecVal(int(value), BITS))

    def _make(self, term: z3.BitVecRef) -> Number:
        return Number(term, signed=self.signed)

    def _shift_right(self, by: z3.BitVecRef) -> z3.BitVecRef:
        return self.term >> by if self.signed else z3.LShR(self.term, by)

    def _less(self, other: z3.BitVecRef) -> z3.BoolRef:
        return self.term < other if self.signed else z3.ULT(self.term, other)

    # fmt: off
    def __add__(self, other): return self._make(self.term + Number.of(other).term)
    def __sub__(self, other): return self._make(self.term - Number.of(other).term)
    def __mul__(self, other): return self._make(self.term * Number.of(other).term)
    def __and__(self, other): return self._make(self.term & Number.of(other).term)
    def __or__(self, other): return self._make(self.term | Number.of(other).term)
    def __xor__(self, other): return self._make(self.term ^ Number.of(other).term)
    def __lshift__(self, other): return self._make(self.term << Number.of(other).term)
    def __rshift__(self, other): return self._make(self._shift_right(Number.of(other).term))
    def __invert__(self): return self._make(~self.term)
    def __neg__(self): return self._make(-self.term)
    def __radd__(self, other): return Number.of(other) + self
    def __rsub__(self, other): return Number.of(other) - self
    def __rmul__(self, other): return Number.of(other) * self
    def __rand__(self, other): return Number.of(other) & self
    def __ror__(self, other): return Number.of(other) | self
    def __rxor__(self, other): return Number.of(other) ^ self
    def __rlshift__(self, other): return Number.of(other) << self
    def __rrshift__(self, other): return Number.of(other) >> self
    def __eq__(self, other): return self.term == Number.of(other).term
    def __ne__(self, other): return self.term != Number.of(other).term
    def __lt__(self, other): return self._less(Number.of(other).term)
    def __ge__(self, other): return z3.Not(self._less(Number.of(other).term))
    def __gt__(self, other): return Number(Number.of(other).term, signed=self.signed)._less(self.term)
    def __le__(self, other): return z3.Not(self > other)
    # fmt: on
    __hash__ = None


def number(name: str) -> Number:
    """Any number."""
    return Number(z3.BitVec(name, BITS))


def truth(value: Any) -> bool | z3.BoolRef:
    """What C's `if` makes of a value; a bool when that is known."""
    if isinstance(value, Number):
        value = value != 0
    if isinstance(value, z3.BoolRef):
        value = z3.simplify(value)
        return z3.is_true(value) if z3.is_true(value) or z3.is_false(value) else value
    return bool(value)


class Either:
    """A pointer that is one or the other: to a structure, or NULL, which is None."""

    def __init__(self, condition: z3.BoolRef, yes: Any, no: Any):
        self.condition, self.yes, self.no = condition, yes, no

    def is_the(self, other: Any) -> bool | z3.BoolRef:
        return choose(self.condition, is_the_same(self.yes, other), is_the_same(self.no, other))

    def __getattr__(self, name: str) -> Any:
        return choose(self.condition, field_of(self.yes, name), field_of(self.no, name))


def is_the_same(pointer: Any, other: Any) -> bool | z3.BoolRef:
    """Whether two pointers are equal."""
    return pointer.is_the(other) if isinstance(pointer, Either) else pointer is other


def field_of(pointer: Any, name: str) -> Any:
    """A field of what a pointer points to; of NULL any value, for nobody looks."""
    return 0 if pointer is None else getattr(pointer, name)


def choose(condition: bool | z3.BoolRef, yes: Any, no: Any) -> Any:
    """The value of a C conditional."""
    if isinstance(condition, bool):
        return yes if condition else no
    if isinstance(yes, bool | z3.BoolRef) and isinstance(no, bool | z3.BoolRef):
        return z3.If(condition, yes, no)
    if not all(isinstance(value, Number | int | z3.BoolRef) for value in (yes, no)):
        return Either(condition, yes, no)
    return Number(z3.If(condition, Number.of(yes).term, Number.of(no).term))


def negated(value: bool | z3.BoolRef) -> bool | z3.BoolRef:
    """C's `not` of what is a truth already."""
    return not value if isinstance(value, bool) else z3.Not(value)


def select(sequence: list, index: Any) -> Any:
    """An element of an array of C integers; the index is inside."""
    if not isinstance(index, Number):
        return sequence[index]
    value = sequence[-1]
    for i, element in reversed(list(enumerate(sequence[:-1]))):
        value = choose(truth(index == i), element, value)
    return value


# -- from Cython to Python ---------------------------------------------------------------------------------------------


def split_arguments(text: str) -> list[str]:
    """The parts between the commas that are in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def python_line(line: str) -> str:
    """A line of a function's body without what Python has not."""
    declared = re.match(r"( +)cdef (?:const )?\w+ (.*)", line)
    if declared:
        values = [part.lstrip("*") for part in split_arguments(declared[2]) if "=" in part]
        line = declared[1] + ("; ".join(values) or "pass")
    line = re.sub(r"<int64_t> ", "signed", line)
    line = re.sub(r"<uint64_t> \(", "unsigned(", line)
    line = re.sub(r"<\w+ ?\*?> ", "", line)
    return re.sub(r"&(?=\w)", "", line)


def functions_of(file: str) -> dict[str, str]:
    """The text of each function of a part of the core, as Python."""
    text = re.sub(r"\n    \) noexcept nogil:", ") noexcept nogil:", (CORE / file).read_text())
    found = {}
    head = r"^cdef (?:inline )?[\w ]+? \*?(\w+)\(([^)]*)\)(?: noexcept| except\??)?[^:\n]*:\n((?:(?: {4}.*)?\n)+)"
    for match in re.finditer(head, text, re.MULTILINE):
        names = [re.search(r"(\w+)$", part)[1] for part in split_arguments(match[2])]
        body = "\n".join(python_line(line) for line in match[3].rstrip().split("\n"))
        found[match[1]] = f"def {match[1]}({', '.join(names)}):\n{body}\n"
    return found


def constants_of(file: str) -> dict[str, int]:
    """The constants of a part of the core."""
    values: dict[str, int] = {}
    text = (CORE / file).read_text()
    for block in re.findall(r"^cdef enum[^\n]*:[^\n]*\n((?: {4}.*\n)+)", text, re.MULTILINE):
        for name, value in re.findall(r"^ {4}(\w+) = ([^#\n]+)", block, re.MULTILINE):
            values[name] = eval(value, {}, values)
    return values


# -- running it --------------------------------------------------------------------------------------------------------

OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_, ast.BitXor: operator.xor, ast.LShift: operator.lshift, ast.RShift: operator.rshift,
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: is_the_same, ast.IsNot: lambda a, b: negated(is_the_same(a, b)),
    ast.Invert: operator.invert, ast.USub: operator.neg,
}  # fmt: skip


class Core:
    """The functions of some parts of the core, on symbols: `core.classify(format, level, raw)`."""

    def __init__(self, *files: str):
        self.constants: dict[str, Any] = {"NULL": None}
        for file in files:
            self.constants |= constants_of(file)
        self.texts = {name: text for file in files for name, text in functions_of(file).items()}
        self.parsed: dict[str, ast.FunctionDef] = {}

    def __getattr__(self, name: str) -> Callable:
        if name not in self.texts:
            raise AttributeError(f"the core has no function {name}")
        if name not in self.parsed:
            self.parsed[name] = ast.parse(self.texts[name]).body[0]
        function = self.parsed[name]
        return lambda *values: self._block(
            function.body, dict(zip((a.arg for a in function.args.args), values, strict=True))
        )

    def _block(self, statements: list[ast.stmt], names: dict[str, Any]) -> Any:
        """What the statements return; both ways of an `if` that is not decided are followed to the end."""
        for i, statement in enumerate(statements):
            match statement:
                case ast.Return():
                    return self._value(statement.value, names)
                case ast.Assign(targets=[ast.Name() as target]):
                    names[target.id] = self._value(statement.value, names)
                case ast.AugAssign(target=ast.Name() as target):
                    change = OPERATORS[type(statement.op)]
                    names[target.id] = change(names[target.id], self._value(statement.value, names))
                case ast.For():
                    unrolled: list[ast.stmt] = []
                    for j in self._value(statement.iter, names):
                        unrolled += [ast.Assign([statement.target], ast.Constant(j)), *statement.body]
                    return self._block(unrolled + statements[i + 1 :], names)
                case ast.While():
                    if self._is_decided(statement.test, names):
                        return self._block(statement.body + statements[i:], names)
                case ast.If():
                    condition, rest = truth(self._value(statement.test, names)), statements[i + 1 :]
                    if isinstance(condition, bool):
                        return self._block((statement.body if condition else statement.orelse) + rest, names)
                    yes = self._block(statement.body + rest, dict(names))
                    no = self._block(statement.orelse + rest, dict(names))
                    return choose(condition, yes, no)
                case ast.Expr(value=ast.Constant()) | ast.Pass():
                    pass
                case _:
                    raise NotImplementedError(ast.unparse(statement))
        return None

    def _is_decided(self, test: ast.expr, names: dict[str, Any]) -> bool:
        """Whether a loop goes on: always about what is known, a mask or a count."""
        condition = truth(self._value(test, names))
        assert isinstance(condition, bool)
        return condition

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        match node:
            case ast.Constant():
                return node.value
            case ast.Name():
                return names[node.id] if node.id in names else self.constants[node.id]
            case ast.Attribute():
                return field_of(self._value(node.value, names), node.attr)
            case ast.Subscript():
                return select(self._value(node.value, names), self._value(node.slice, names))
            case ast.UnaryOp(op=ast.Not()):
                return negated(truth(self._value(node.operand, names)))
            case ast.UnaryOp():
                return OPERATORS[type(node.op)](self._value(node.operand, names))
            case ast.BinOp():
                return OPERATORS[type(node.op)](self._value(node.left, names), self._value(node.right, names))
            case ast.Compare():
                terms = [self._value(term, names) for term in (node.left, *node.comparators)]
                results = [OPERATORS[type(op)](a, b) for op, a, b in zip(node.ops, terms[:-1], terms[1:], strict=True)]
                return results[0] if len(results) == 1 else z3.And(*results)
            case ast.BoolOp():
                return self._bool_op(isinstance(node.op, ast.And), node.values, names)
            case ast.IfExp():
                condition = truth(self._value(node.test, names))
                if isinstance(condition, bool):
                    return self._value(node.body if condition else node.orelse, names)
                return choose(condition, self._value(node.body, names), self._value(node.orelse, names))
            case ast.Call(func=ast.Name(id=name)):
                values = [self._value(argument, names) for argument in node.args]
                if name == "signed":
                    return Number(Number.of(values[0]).term, signed=True)
                if name == "unsigned":
                    return Number(Number.of(values[0]).term)
                if name in ("range", "min", "max"):  # of what is known
                    return {"range": range, "min": min, "max": max}[name](*values)
                return getattr(self, name)(*values)
        raise NotImplementedError(ast.unparse(node))

    def _bool_op(self, is_and: bool, nodes: list[ast.expr], names: dict[str, Any]) -> bool | z3.BoolRef:
        open_terms = []
        for node in nodes:
            value = truth(self._value(node, names))
            if not isinstance(value, bool):
                open_terms.append(value)
            elif value is not is_and:
                return value
        if not open_terms:
            return is_and
        return z3.And(*open_terms) if is_and else z3.Or(*open_terms)


# -- a description, as the core reads it -------------------------------------------------------------------------------


class Zeroed(SimpleNamespace):
    """A C structure after memset."""

    def __getattr__(self, name: str) -> int:
        return 0


def read_format(core: Core, arch: Any) -> Zeroed:
    """What `format_read` makes of an architecture."""
    names: dict[str, Any] = {
        **core.constants,
        "NULL": None,
        "FLAGS": "rwxugad",
        "FormatError": ptl.FormatError,
        "sys": sys,
        "count_trailing_zeros": lambda mask: (mask & -mask).bit_length() - 1,
        "memset": lambda *_: None,
        "sizeof": lambda _: 0,
        "Format": None,
        "unsigned": lambda value: value % 2**BITS,
    }
    for name, text in core.texts.items():
        exec(compile(text, f"<{name} of the core>", "exec"), names)
    choices, attributes, levels = (core.constants[name] for name in ("CHOICE_BITS", "ATTRIBUTES", "LEVELS"))

    def choice() -> Zeroed:
        return Zeroed(shift=[0] * choices, granted=[0] * (1 << choices))

    def word() -> Zeroed:
        return Zeroed(bits=[0] * (1 << attributes), choice=[choice() for _ in range(attributes)])

    def level() -> Zeroed:
        rules, runs = ([Zeroed() for _ in range(core.constants[name])] for name in ("RULES", "RUNS"))
        return Zeroed(shadow=Zeroed(rule=rules), run=runs)

    blank = Zeroed(level=[level() for _ in range(levels + 1)], attributes=[word() for _ in range(levels)])
    names["format_read"](blank, arch)
    return blank
