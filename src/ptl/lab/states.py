"""Explore paths written in Python by states: every state that can be reached is visited once.

    state = (what threads share, where each thread is)          a step leads from one to another

A state is a value, so going back costs nothing, the shortest way to a mistake is found first, and a thread that goes
round for ever is a cycle. Where a generator is, is its next instruction and everything that it refers to: its variables
and what lies on its stack. Two generators that agree in these go on alike, so what a step leads to is asked once.

A livelock is a strongly connected part of the graph that threads can stay in for ever although each of them that is
always able to move does so (weak fairness). A deadlock is a state from which nobody can go on while somebody is not
done.

Besides states, the interleavings are counted, as ways through the graph; and the classes, as what sleep sets leave of
them: orders that differ only in steps that commute are one.
"""

from __future__ import annotations

import gc
import types
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ptl.lab import machine
from ptl.lab.machine import State, Step, Wrong
from ptl.lab.paths import MakesPath

Where = tuple[object, ...]
"""Where a generator is; () when it has ended."""
Node = tuple[State, tuple[Where, ...]]
Ensures = Callable[[State], str | None]
"""What must hold when all threads have ended: None, or what is wrong."""

CLASSES_MOST = 200_000


class Threads:
    """The paths of a scenario: where each leads, found out once by running it."""

    def __init__(self, paths: Sequence[MakesPath]) -> None:
        self._paths = paths
        self._steps: dict[tuple[int, Where], Step] = {}
        self._after: dict[tuple[int, Where, int], Where] = {}
        self._sent: dict[tuple[int, Where], tuple[int, ...]] = {}

    def begin(self) -> tuple[Where, ...]:
        """Where each is before its first step."""
        return tuple(self._run(thread, ()) for thread in range(len(self._paths)))

    def step(self, thread: int, where: Where) -> Step:
        """The step that a thread makes next."""
        return self._steps[thread, where]

    def after(self, thread: int, where: Where, found: int) -> Where:
        """Where a thread is when its step has found that."""
        key = thread, where, found
        if key not in self._after:
            self._after[key] = self._run(thread, (*self._sent[thread, where], found))
        return self._after[key]

    def _run(self, thread: int, sent: tuple[int, ...]) -> Where:
        path = self._paths[thread]()
        try:
            step = next(path)
            for found in sent:
                step = path.send(found)
        except StopIteration:
            return ()
        assert isinstance(path, types.GeneratorType)
        where = _where(path)
        path.close()
        self._steps.setdefault((thread, where), step)
        self._sent.setdefault((thread, where), sent)
        return where


@dataclass
class Graph:
    """Everything that can happen."""

    root: Node
    threads: Threads
    edges: dict[Node, list[tuple[int, Node]]] = field(default_factory=dict)
    """By node: which thread goes on, and where that leads."""
    came_from: dict[Node, tuple[Node, int]] = field(default_factory=dict)
    """By node: the first, and so shortest, way there."""
    wrong: tuple[str, str, list[int]] | None = None
    """Kind, words, and the shortest schedule that leads there; None when nothing is wrong."""

    def way_to(self, node: Node) -> list[int]:
        """The threads that lead from the root to a node."""
        way = []
        while node != self.root:
            node, thread = self.came_from[node]
            way.append(thread)
        return way[::-1]


def explore(paths: Sequence[MakesPath], start: State, ensures: Ensures | None = None) -> Graph:
    """Visit every state; stops at the first that is wrong, which is the nearest."""
    threads = Threads(paths)
    graph = Graph((start, threads.begin()), threads)
    waiting = deque([graph.root])
    graph.edges[graph.root] = []
    while waiting:
        node = waiting.popleft()
        try:
            successors = _successors(threads, node, ensures)
        except _Stopped as stopped:
            graph.wrong = stopped.kind, stopped.detail, [*graph.way_to(node), *stopped.threads]
            return graph
        for thread, following in successors:
            graph.edges[node].append((thread, following))
            if following not in graph.edges:
                graph.edges[following] = []
                graph.came_from[following] = node, thread
                waiting.append(following)
    cycle = _fair_cycle(threads, graph)
    if cycle is not None:
        graph.wrong = "livelock", "these steps can follow one another for ever", cycle
    return graph


def interleavings(graph: Graph) -> int | None:
    """How many ways there are from the root to an end; None when there is no end to them."""
    counts: dict[Node, int] = {}
    open_nodes: set[Node] = set()
    stack = [(graph.root, False)]
    while stack:
        node, is_done = stack.pop()
        if is_done:
            open_nodes.discard(node)
            counts[node] = sum(counts[following] for _, following in graph.edges[node]) or 1
        elif node not in counts:
            if node in open_nodes:
                return None
            open_nodes.add(node)
            stack.append((node, True))
            for _, following in graph.edges[node]:
                if following in open_nodes:
                    return None
                if following not in counts:
                    stack.append((following, False))
    return counts[graph.root]


def longest(graph: Graph) -> int:
    """Steps of the longest way; for a graph without a cycle."""
    depth = dict.fromkeys(graph.edges, 0)
    missing = dict.fromkeys(graph.edges, 0)
    for following in graph.edges.values():
        for _, after in following:
            missing[after] += 1
    ready = [node for node, count in missing.items() if count == 0]
    while ready:
        node = ready.pop()
        for _, after in graph.edges[node]:
            depth[after] = max(depth[after], depth[node] + 1)
            missing[after] -= 1
            if missing[after] == 0:
                ready.append(after)
    return max(depth.values())


def classes(graph: Graph) -> int | None:
    """How many interleavings differ in the order of steps that do not commute; None when there are very many.

    For a graph without a cycle. Sleep sets leave exactly one of each class.
    """
    count = 0
    commuting: dict[Node, dict[int, frozenset[int]]] = {}
    stack: list[tuple[Node, frozenset[int]]] = [(graph.root, frozenset())]
    while stack:
        node, asleep = stack.pop()
        if not graph.edges[node]:
            count += 1
            if count > CLASSES_MOST:
                return None
        if node not in commuting:
            commuting[node] = _commuting(graph, node)
        for thread, after in graph.edges[node]:
            if thread not in asleep:
                stack.append((after, asleep & commuting[node][thread]))
                asleep |= {thread}
    return count


def _commuting(graph: Graph, node: Node) -> dict[int, frozenset[int]]:
    """By thread: the others whose next step commutes with its next."""
    state, where = node
    touched = {
        thread: machine.touches(state, thread, graph.threads.step(thread, place))
        for thread, place in enumerate(where)
        if place
    }
    return {
        thread: frozenset(other for other in touched if other != thread and _commute(touched[other], touched[thread]))
        for thread in touched
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """A step of a replay."""

    thread: int
    step: Step
    found: int
    state: State
    """After the step."""
    wrong: tuple[str, str] | None
    """Kind and words."""


def replay(
    paths: Sequence[MakesPath], start: State, schedule: Sequence[int], ensures: Ensures | None = None
) -> Iterator[Seen]:
    """Follow a schedule, and then let each thread go on to its end, or for as long as it goes round."""
    threads = Threads(paths)
    node: Node = start, threads.begin()
    wanted, last, passed = deque(schedule), 0, set()
    while True:
        state, where = node
        able = [
            thread
            for thread, place in enumerate(where)
            if place and machine.is_enabled(state, threads.step(thread, place))
        ]
        while wanted and wanted[0] not in able:
            wanted.popleft()
        if not able or (not wanted and node in passed):
            return
        if not wanted:
            passed.add(node)
        thread = wanted.popleft() if wanted else last if last in able else able[0]
        last = thread
        step = threads.step(thread, where[thread])
        try:
            state, found = machine.apply(state, thread, step)
        except Wrong as wrong:
            yield Seen(thread, step, 0, state, (wrong.kind, wrong.detail))
            return
        moved = list(where)
        moved[thread] = threads.after(thread, where[thread], found)
        node = state, tuple(moved)
        yield Seen(thread, step, found, state, None if any(moved) else wrong_at_rest(state, ensures))


class _Stopped(Exception):
    def __init__(self, kind: str, detail: str, threads: tuple[int, ...] = ()) -> None:
        super().__init__(kind)
        self.kind, self.detail, self.threads = kind, detail, threads


def _successors(threads: Threads, node: Node, ensures: Ensures | None) -> list[tuple[int, Node]]:
    state, where = node
    found_all = []
    for thread, place in enumerate(where):
        if not place:
            continue
        step = threads.step(thread, place)
        if not machine.is_enabled(state, step):
            continue
        try:
            after, found = machine.apply(state, thread, step)
        except Wrong as wrong:
            raise _Stopped(wrong.kind, wrong.detail, (thread,)) from wrong
        moved = list(where)
        moved[thread] = threads.after(thread, place, found)
        found_all.append((thread, (after, tuple(moved))))
    if not found_all:
        if any(where):
            waits = next(threads.step(thread, place) for thread, place in enumerate(where) if place)
            raise _Stopped("deadlock", f"nobody can go on; one waits for: {waits}")
        trouble = wrong_at_rest(state, ensures)
        if trouble is not None:
            raise _Stopped(*trouble)
    return found_all


def wrong_at_rest(state: State, ensures: Ensures | None) -> tuple[str, str] | None:
    """Kind and words of what is wrong when all threads have ended, or None."""
    try:
        machine.at_rest(state)
    except Wrong as wrong:
        return wrong.kind, wrong.detail
    words = ensures(state) if ensures is not None else None
    return None if words is None else ("broken invariant", words)


def _fair_cycle(threads: Threads, graph: Graph) -> list[int] | None:
    """A schedule into a part of the graph where threads can stay for ever, fairly; and once around in it."""
    for part in _connected_parts(graph):
        inside = set(part)
        moves = {thread for node in part for thread, after in graph.edges[node] if after in inside}
        if not moves:
            continue
        able = [{thread for thread, _ in graph.edges[node]} for node in part]
        always = set.intersection(*able)
        if always <= moves:
            return [*graph.way_to(part[0]), *_around(graph, part[0], inside)]
    return None


def _around(graph: Graph, node: Node, inside: set[Node]) -> list[int]:
    """The shortest way from a node back to itself inside a part of the graph."""
    ways: dict[Node, list[int]] = {}
    waiting = deque([node])
    ways[node] = []
    while waiting:
        at = waiting.popleft()
        for thread, after in graph.edges[at]:
            if after == node:
                return [*ways[at], thread]
            if after in inside and after not in ways:
                ways[after] = [*ways[at], thread]
                waiting.append(after)
    return []


def _connected_parts(graph: Graph) -> Iterator[list[Node]]:
    """The strongly connected parts that have an edge inside (R. Tarjan, 1972, without recursion)."""
    index: dict[Node, int] = {}
    low: dict[Node, int] = {}
    on_stack: set[Node] = set()
    stack: list[Node] = []
    work: list[tuple[Node, Iterator[tuple[int, Node]]]] = []

    def open_node(node: Node) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        on_stack.add(node)
        work.append((node, iter(graph.edges[node])))

    for first in graph.edges:
        if first in index:
            continue
        open_node(first)
        while work:
            node, edges = work[-1]
            for _, after in edges:
                if after not in index:
                    open_node(after)
                    break
                if after in on_stack:
                    low[node] = min(low[node], index[after])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    part = []
                    while True:
                        last = stack.pop()
                        on_stack.discard(last)
                        part.append(last)
                        if last == node:
                            break
                    if len(part) > 1 or any(after == node for _, after in graph.edges[node]):
                        yield part


def _commute(one: frozenset[tuple[object, bool]], other: frozenset[tuple[object, bool]]) -> bool:
    return not any(
        word == word_too and (is_write or is_write_too) for word, is_write in one for word_too, is_write_too in other
    )


def _where(path: types.GeneratorType[Step, int, None]) -> Where:
    """Where a generator is: its next instruction, and all it refers to."""
    assert path.gi_frame is not None
    return path.gi_frame.f_lasti, *(
        _frozen(each) for each in gc.get_referents(path) if not isinstance(each, types.FrameType)
    )


def _frozen(value: object) -> object:
    """A value that can be compared and kept, for one that may change."""
    if isinstance(value, types.GeneratorType):
        return _where(value)
    if value is None or isinstance(value, int | str | float | bytes | types.CodeType | types.FunctionType | type):
        return value
    if isinstance(value, tuple | list):
        return type(value).__name__, *(_frozen(each) for each in value)
    if isinstance(value, dict):
        return ("dict", *((_frozen(key), _frozen(each)) for key, each in value.items()))
    if isinstance(value, range):
        return "range", value.start, value.stop, value.step
    if isinstance(value, set | frozenset):
        return "set", frozenset(_frozen(each) for each in value)
    if isinstance(value, Step | types.CellType | types.ModuleType):
        return value if isinstance(value, Step) else id(value)
    if hasattr(value, "__next__"):  # an iterator says where it is
        reduced = value.__reduce__()
        return tuple(_frozen(each) for each in reduced if not callable(each))
    raise TypeError(f"a path keeps numbers, strings, tuples, lists, dicts and iterators; not a {type(value).__name__}")
