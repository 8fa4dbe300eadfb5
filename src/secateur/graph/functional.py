"""In-place ops made functional, so that a node's value never changes after it is made.

A write into a view (`y[:, 0] = 0`, `y[..., :8] *= 2`, `a += 1` after `a, b = y.chunk(2, 1)`) becomes a new
value of what the view is taken of; views of the same memory that are read later are taken anew. Only ops are
used that every rule table knows (`cat`, `stack`, `permute`, `reshape_as`…).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from secateur.errors import CaptureError
from secateur.graph.aliases import use_first_name
from secateur.graph.memory import Memory, observed
from secateur.graph.node import bound_arguments, kind
from secateur.graph.sources import described
from secateur.graph.writes import INTO_PARENT, READS, SCATTERS, VALUES, Maker

aten = torch.ops.aten

_CHECKS = {aten._assert_tensor_metadata.default}  # of a dtype in which we may not run the graph
_OUT_OF_PLACE = "write it out of place, for example with torch.where or torch.cat"


def make_functional(module: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """Replace in-place ops by functional ones.

    `inputs`: a value for each placeholder, on which the graph is run once.

    Raises `CaptureError` naming op and source line where a buffer is written, or a view that has no rule.
    """
    graph = module.graph
    for node in [n for n in graph.nodes if n.target in _CHECKS]:
        graph.erase_node(node)
    if any(
        _is_in_place(node) or kind(node) in SCATTERS or f"{kind(node)}_" in VALUES for node in graph.nodes
    ):
        _Functional(graph, observed(module, inputs)).rewrite()
    for node in graph.nodes:
        use_first_name(node)
    graph.eliminate_dead_code()
    module.recompile()


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


class _Functional:
    """One pass in execution order. Keys are captured nodes; `now` holds the nodes that replace them."""

    def __init__(self, graph: fx.Graph, memory: Memory) -> None:
        self.graph, self.memory = graph, memory
        self.captured = {node: (node.args, node.kwargs) for node in graph.nodes}
        self.in_place = {node for node in graph.nodes if _is_in_place(node)}
        written = {self._place(view) for node in graph.nodes for view in self._written_views(node)}
        self.written = {node for node in graph.nodes if kind(node) in READS and self._place(node) in written}
        self.now = dict[fx.Node, fx.Node]()  # where it is not the node itself
        self.views = dict[fx.Node, list[fx.Node]]()  # base → its views so far

    def _written_views(self, node: fx.Node) -> list[fx.Node]:
        """What an op writes to: for `scatter` ops themselves, which have the arguments of the view."""
        if kind(node) in SCATTERS:
            return [node]
        found = (
            [node.args[0]]
            if node in self.in_place and node.args and isinstance(node.args[0], fx.Node)
            else []
        )
        while found and found[-1] in self.memory.parents:
            found.append(self.memory.parents[found[-1]])
        return found

    def _place(self, node: fx.Node) -> Any:
        """What a view shows and a `scatter` op writes: equal for the same indices of the same value."""
        while node in self.memory.same:
            node = self.memory.parents[node]
        name = SCATTERS.get(kind(node), kind(node))
        if name not in READS or node.op != "call_function":
            return node
        a = bound_arguments(node, *self.captured[node])
        return (
            name,
            self._place(a["self"]),
            *(str(a.get(key)) for key in ("dim", "index", "start", "end", "step")),
        )

    def rewrite(self) -> None:
        for node in list(self.graph.nodes):
            node.args, node.kwargs = fx.map_arg(self.captured[node], self.current)
            if node in self.in_place:
                self._write(node)
            elif node.op == "call_function":
                self._replace(node)
            if node in self.memory.parents:
                self.views.setdefault(self.memory.base(node), []).append(node)
        for node in reversed(list(self.graph.nodes)):
            if _is_in_place(node):
                self.graph.erase_node(node)

    def current(self, node: fx.Node) -> fx.Node:
        return self.now.get(node, node)

    def _replace(self, node: fx.Node) -> None:
        """Reads of what is written elsewhere, and the functional forms of writes in decomposed programs."""
        maker = Maker(self.graph, self.memory, node)
        if node in self.written:
            made = self._freely(maker, node)
        elif kind(node) in SCATTERS:
            parent = self.captured[node][0][0]
            given: Any = node.args
            maker.place = node.next
            made = INTO_PARENT[SCATTERS[kind(node)]](maker, node, parent, given[0], given[1])
        elif f"{kind(node)}_" in VALUES and node in self.memory.shapes:
            made = self._form(maker, node, f"{kind(node)}_")
        else:
            made = None
        if made is not None:
            self.now[node] = made

    def _freely(self, maker: Maker, view: fx.Node) -> fx.Node | None:
        """A view that is written to somewhere, made by ops that do not couple the units of other indices."""
        parent = self.captured[view][0][0]
        return READS[kind(view)](maker, view, parent, self.current(parent))

    def _taken_anew(self, maker: Maker, view: fx.Node) -> fx.Node:
        if view in self.in_place:
            return self.current(self.memory.parents[view])  # such an op returns what it writes to
        made = self._freely(maker, view) if view in self.written else None
        args, kwargs = fx.map_arg(self.captured[view], self.current)
        return made or maker.call(view.target, *args, **kwargs)

    def _write(self, node: fx.Node) -> None:
        """The functional form of an in-place op, and what follows for all that shares its memory."""
        target = self.captured[node][0][0] if node.args and kind(node).endswith("_") else None
        if not isinstance(target, fx.Node):  # a list of tensors, or out=
            raise CaptureError(f"{described(node)}: this in-place op is not supported; {_OUT_OF_PLACE}")
        base = self.memory.base(target)
        if base.op == "get_attr":
            raise CaptureError(
                f"the model changes its own buffers when it runs ({base.target}): {described(node)}; export "
                "it without that"
            )
        if self._puts_back(node, target):
            self.now[node] = self.current(target)
            return
        maker = Maker(self.graph, self.memory, node)
        maker.place = node.next
        changed = self._changed(maker, node, target)
        self.now |= changed
        for view in self.views.get(base, ()):
            if view not in changed:
                self.now[view] = self._taken_anew(maker, view)

    def _changed(self, maker: Maker, node: fx.Node, target: fx.Node) -> dict[fx.Node, fx.Node]:
        """The new values of the op's target and of all that it is a view of."""
        value = self._value(maker, node)
        changed = {node: value, target: value}
        while target in self.memory.parents:
            view, target = target, self.memory.parents[target]
            if target in self.memory.lengths:  # a piece of a split: on to what was split
                pieces, target = target, self.memory.parents[target]
                made = maker.joined(pieces, self.current(pieces), view.args[1], value)
            elif view in self.memory.same:
                made = value
            else:
                rule = INTO_PARENT.get(kind(view))
                made = rule(maker, view, target, self.current(target), value) if rule is not None else None
            if made is None:
                raise CaptureError(
                    f"{described(node)} writes into a view made by {described(view)}; {_OUT_OF_PLACE}"
                )
            changed[target] = value = made
        return changed

    def _value(self, maker: Maker, node: fx.Node) -> fx.Node:
        """What the op writes, of the shape of what it writes to."""
        made = self._form(maker, node, kind(node)) if kind(node) in VALUES else None
        if made is not None:
            return made
        twin = _functional_twin(node.target)
        if twin is None:
            raise CaptureError(f"{described(node)}: this in-place op is not supported; {_OUT_OF_PLACE}")
        node.target = twin
        return node

    def _form(self, maker: Maker, node: fx.Node, name: str) -> fx.Node | None:
        now, captured = (
            bound_arguments(node, *given) for given in ((node.args, node.kwargs), self.captured[node])
        )
        return VALUES[name](maker, now, captured)

    def _puts_back(self, node: fx.Node, target: fx.Node) -> bool:
        """`y[:, :4] *= 2` ends with a copy of the slice, which is done by then, onto the same slice."""
        if kind(node) != "copy_":
            return False
        source = self.captured[node][0][1]
        if source not in self.in_place or source not in self.memory.parents:
            return False
        written = self.memory.parents[source]
        return (
            self.current(source) is self.current(written)
            and written.target == target.target
            and self.captured[written] == self.captured[target]
        )


def _functional_twin(target: Any) -> torch._ops.OpOverload | None:
    name = target._schema.name.split("::")[-1]
    return getattr(getattr(aten, name[:-1], None), target._overloadname, None)
