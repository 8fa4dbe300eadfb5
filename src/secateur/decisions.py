"""What a model decides: one class of several, yes or no, a set of labels, or nothing.

`decision_of` finds the head of a captured graph; `fitting_head` and `decide` work on outputs alone. A
decision is read from one value of the graph: a class by the greatest of its scores, yes or no by a cut.
`before_head` moves the reading to the value before monotone ops (softmax, sigmoid), where the same decision
is taken without their rounding.

Heads: `logits` and `probabilities` decide for the greatest of several outputs; `binary_logit` for yes above 0
and `binary_probability` for yes above ½; `multi_label` (and `multi_label_logits`) so for each of several
outputs, and two such decisions are the same where all labels are; `none` decides nothing (a regression);
`auto` goes by the last ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, fx

from secateur.errors import InputError
from secateur.graph.graph import Graph
from secateur.graph.interpret import call_op, run
from secateur.graph.meaning import Meaning, arguments_of, op_name, passes_both_sides
from secateur.graph.ops import OPS, SOFTMAXES, of, where
from secateur.graph.places import Look, maker, moved_back, only_source

Head = Literal[
    "auto", "logits", "probabilities", "binary_logit", "binary_probability", "multi_label",
    "multi_label_logits", "none",
]  # fmt: skip
HEADS: tuple[Head, ...] = get_args(Head)
BINARY = ("binary_logit", "binary_probability")
MULTI_LABEL = ("multi_label", "multi_label_logits")
_CUTS = {"binary_logit": 0.0, "binary_probability": 0.5, "multi_label": 0.5, "multi_label_logits": 0.0}
_TO_LOGITS = ("binary_logit", "multi_label_logits")
_PROBABILITIES: tuple[Meaning, ...] = ("probability", "distribution")
_SCORES: tuple[Meaning, ...] = ("scores", "signed")

# --- heads, and decisions from outputs ----------------------------------------------------------------------


def check_head(head: str) -> None:
    if head not in HEADS:
        raise InputError(f"head={head!r}: choose one of {', '.join(HEADS)}")


def fitting_head(head: Head, meaning: Meaning, columns: int, *, one_of_k: bool) -> Head:
    """The head of a model that gives `columns` numbers for a sample; `none` where `auto` cannot tell.

    `one_of_k`: whether each sample is known to have one class. Raises `InputError` for a head that does not
    fit.
    """
    if head == "auto":
        return _head_of_one(meaning) if columns == 1 else _head_of_several(meaning, one_of_k)
    if head != "none" and head not in MULTI_LABEL and (columns == 1) != (head in BINARY):
        raise InputError(f"head={head!r} does not fit a model with {columns} outputs")
    if meaning in _PROBABILITIES and head in _TO_LOGITS:
        raise InputError(
            f"head={head!r} does not fit a model that ends in probabilities, which are never below 0"
        )
    return "multi_label_logits" if head == "multi_label" and meaning in _SCORES else head


def _head_of_one(meaning: Meaning) -> Head:
    if meaning in _PROBABILITIES:
        return "binary_probability"
    return "binary_logit" if meaning in _SCORES else "none"


def _head_of_several(meaning: Meaning, one_of_k: bool) -> Head:
    if meaning == "probability" and not one_of_k:
        return "multi_label"
    if meaning in _PROBABILITIES:
        return "probabilities"
    return "logits" if one_of_k or meaning in (*_SCORES, "compared") else "none"


def classes_of(head: Head, columns: int) -> int:
    """How many classes the model tells apart; of many labels, how many labels."""
    return 2 if head in BINARY else columns


def decide(outputs: Tensor, head: Head) -> Tensor:
    """The class of each row of `outputs` (n, columns), shape (n,), or its labels, shape (n, columns).

    A class is the first greatest output, or 1 where the cut is passed; labels are those above the cut.
    """
    if head not in _CUTS:
        return outputs.argmax(dim=1)
    passed = (outputs > _CUTS[head]).long()
    return passed if head in MULTI_LABEL else passed[:, 0]


# --- decisions of a graph -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class NoDecision:
    """A model whose outputs decide nothing, or nothing that is known."""

    why: str
    head: Head = "none"


@dataclass(frozen=True, eq=False)
class Decision:
    """How decisions are read from the value of one node.

    A sample has one decision at each position: one in all for a classifier, one for each pixel or token of a
    dense output. It is the greatest of k scores, or (with `cut`) which of k numbers are above the cut; where
    the head falls (`rising` is False), which are below.
    """

    head: Head
    output: int  # number of the output that decides
    node: fx.Node
    index: Tensor  # (positions, k), the elements of one sample's value
    places: Tensor  # the same in the output, whose order labels have
    size: int  # of one sample's value: how many elements there are
    sample_shape: tuple[int, ...]  # of one sample's output
    label_shape: tuple[int, ...]  # of one sample's labels
    cut: float | None = None
    rising: bool = True
    passed: tuple[fx.Node, ...] = ()  # functions between `node` and the output; they may saturate

    @property
    def columns(self) -> int:
        return self.index.shape[1]

    def scores(self, value: Tensor) -> Tensor:
        """What is compared, (n, positions, k), from the value of the node."""
        # squeeze() may have dropped a batch of one
        return value.reshape(-1, self.size)[:, self.index.to(value.device)]

    def classes(self, value: Tensor) -> Tensor:
        """Class numbers (n, positions, 1), or yes or no (n, positions, k); −1 where there is a NaN."""
        x = self.scores(value)
        if self.cut is None:
            found = x.argmax(-1, keepdim=True)
            return found.masked_fill(x.isnan().any(-1, keepdim=True), -1)
        above = x > self.cut if self.rising else x < self.cut
        return above.long().masked_fill(x.isnan(), -1)

    def margins(self, value: Tensor, classes: Tensor) -> Tensor:
        """How far each position is from another decision than `classes`, (n, positions); below 0 beyond."""
        x = self.scores(value)
        if self.cut is not None:
            return (self.sides(classes).to(x.dtype) * (x - self.cut)).amin(-1)
        own = torch.nn.functional.one_hot(classes[..., 0].clamp(min=0), self.columns).bool()
        return x.masked_fill(~own, 0.0).sum(-1) - x.masked_fill(own, -torch.inf).amax(-1)

    def sides(self, classes: Tensor) -> Tensor:
        """Of yes or no: 1 where the value is to be above the cut, −1 where below."""
        return torch.where((classes == 1) == self.rising, 1.0, -1.0)

    def labelled(self, labels: Tensor) -> Tensor:
        """Labels (n, …) in the shape of `classes`. Raises `InputError` for another shape."""
        wanted = [size for size in self.label_shape if size != 1]
        if labels.is_floating_point() or [size for size in labels.shape[1:] if size != 1] != wanted:
            what = f"(inputs, {', '.join(map(str, wanted))})" if wanted else "(inputs,)"
            raise InputError(
                f"labels of shape {tuple(labels.shape)}: a model with the head {self.head} takes whole "
                f"numbers of shape {what}"
            )
        flat = labels.reshape(len(labels), -1)
        return flat[..., None] if self.cut is None else flat[:, self.places]

    def distinct(self, low: Tensor, high: Tensor, margins: Tensor) -> Tensor:
        """Whether scores stay apart after the ops in `passed` in float32, where sigmoid and tanh saturate.

        The scores lie between `low` and `high` (n, positions, k) and are apart by `margins` (n, positions).
        The least difference of a function whose slope is nowhere least in between is at the ends.
        """
        if not self.passed:
            return torch.ones_like(margins, dtype=torch.bool)
        found = torch.ones_like(margins, dtype=torch.bool)
        for end in (low.amin(-1), high.amax(-1)):
            below, above = (_through(self.passed, x.float()) for x in (end, end + margins))
            found &= above - below > 4 * torch.finfo(torch.float32).eps * torch.maximum(
                above.abs(), below.abs()
            )
        return found


def same(first: Tensor, second: Tensor) -> Tensor:
    """Where two decisions are the same, (n, positions); one with a NaN never is."""
    return ((first == second) & (first >= 0)).all(-1)


def decide_on(
    graph: Graph,
    decision: Decision,
    inputs: Sequence[Tensor],
    tensors: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The graph's decisions for `inputs`, as `Decision.classes`."""
    (value,) = run(graph, inputs, tensors, dtype=dtype, wanted=[decision.node])
    return decision.classes(value)


def decision_of(graph: Graph, head: Head = "auto", *, one_of_k: bool = False) -> Decision | NoDecision:
    """What the graph decides, read from its output. Raises `InputError` for a head that does not fit.

    `auto` takes the last ops at their word: softmax and sigmoid give probabilities (several sigmoids: many
    labels, unless each sample is known to have `one_of_k` classes), a linear layer logits. A regression
    cannot be told from logits; heads of which no threshold is known decide nothing. With several outputs, the
    only one with a softmax or sigmoid decides under `auto`, the first one under any other head. Cost: two
    forward passes of the example.
    """
    check_head(head)
    if head == "none":
        return NoDecision("the head was given as none")
    look = Look.at(graph)
    output = _deciding(look, head)
    if isinstance(output, NoDecision):
        return output
    node = graph.outputs[output]
    if not look.is_batched(node):
        return NoDecision(f"axis 0 of the output {node.name} is not the batch")
    sample = tuple(look.values[node].shape[1:])
    wide = [axis for axis, size in enumerate(sample) if size != 1]
    if len(wide) > 1:
        return _dense(look, head, output, sample)
    axis = wide[0] if wide else None
    columns = 1 if axis is None else sample[axis]
    name = fitting_head(head, look.meaning[node], columns, one_of_k=one_of_k)
    if name == "none":
        return NoDecision(f"it is not known how outputs that end in {op_name(node)} ({node.name}) decide")
    return _reading(name, output, node, sample, axis)


def _reading(head: Head, output: int, node: fx.Node, sample: tuple[int, ...], axis: int | None) -> Decision:
    """A decision on the output itself; `axis` of one sample is that of the classes or labels."""
    elements = torch.arange(math.prod(sample)).reshape(sample)
    index = elements.reshape(-1, 1) if axis is None else elements.movedim(axis, -1).reshape(-1, sample[axis])
    cut = _CUTS.get(head)
    by_class = cut is None and axis is not None
    labels = tuple(s for i, s in enumerate(sample) if not by_class or i != axis)
    return Decision(head, output, node, index, index, math.prod(sample), sample, labels, cut)


def _dense(look: Look, head: Head, output: int, sample: tuple[int, ...]) -> Decision | NoDecision:
    """Of an output with a decision at each of many positions; yes or no is one for each number.

    Under a head that was given, axis 1 holds the classes where the graph does not tell, as for PyTorch's
    losses.
    """
    node = look.graph.outputs[output]
    meaning, (made_by, axis) = look.meaning[node], maker(look, node, sample)
    if head != "auto":
        name = fitting_head(head, meaning, 1 if head in BINARY else 2, one_of_k=False)
    elif meaning == "probability":
        name = "multi_label"
    elif axis is not None and made_by in (*SOFTMAXES, "linear"):
        name = "probabilities" if meaning == "distribution" else "logits"
    else:
        return NoDecision(
            f"no axis of the output {node.name}, (batch, {_sizes(sample)}), is known to hold classes"
        )
    axis = None if name in _CUTS else axis or 0
    if axis is not None and sample[axis] < 2:
        raise InputError(f"head={head!r} does not fit an output of shape (batch, {_sizes(sample)})")
    return _reading(name, output, node, sample, axis)


def _sizes(sample: Sequence[int]) -> str:
    return ", ".join(map(str, sample))


def _deciding(look: Look, head: Head) -> int | NoDecision:
    """The number of the output that decides."""
    nodes = look.graph.outputs
    floating = [i for i, node in enumerate(nodes) if look.values[node].is_floating_point()]
    if not floating:
        return NoDecision("the model gives no floating-point output")
    if head != "auto" or len({nodes[i] for i in floating}) == 1:
        return floating[0]
    plain = [i for i in floating if look.meaning[nodes[i]] in _PROBABILITIES]
    if len(plain) == 1:
        return plain[0]
    return NoDecision(f"the model has {len(floating)} outputs, and which of them decides is not known")


# --- before the head ----------------------------------------------------------------------------------------


def before_head(graph: Graph, decision: Decision) -> Decision:
    """The same decision, read as far before the output as monotone ops and moves of data let it be."""
    look = Look.at(graph)
    while (earlier := _step_back(look, decision)) is not None:
        decision = replace(earlier, size=math.prod(look.values[earlier.node].shape[1:]))
    return decision


def _step_back(look: Look, decision: Decision) -> Decision | None:
    """The decision read from the op's argument; None where it cannot be."""
    node = decision.node
    source = only_source(look, node)
    if source is None:
        return None
    moved = moved_back(look, node, decision.index)
    if moved is not None:
        return replace(decision, node=moved[0], index=moved[1])
    if not isinstance(look.values.get(source), Tensor) or not look.is_batched(source):
        return None
    if op_name(node) in SOFTMAXES:
        return _before_softmax(look, node, source, decision)
    if look.values[source].shape != look.values[node].shape or len(node.all_input_nodes) != 1:
        return None
    if decision.cut is None:
        return _before_increasing(look, node, source, decision)
    earlier = _CUT_BACK[op_name(node)](node, decision.cut) if op_name(node) in _CUT_BACK else None
    if earlier is None:
        return None
    cut, falls = earlier
    return replace(decision, node=source, cut=cut, rising=decision.rising != falls)


def _before_increasing(look: Look, node: fx.Node, source: fx.Node, decision: Decision) -> Decision | None:
    """An increasing function leaves the greatest value where it is."""
    name = op_name(node)
    if name == "log" and look.meaning[source] == "distribution" and not decision.passed:
        return replace(decision, node=source)
    if name not in _INCREASING:
        return None
    return replace(decision, node=source, passed=(node, *decision.passed))


def _before_softmax(look: Look, node: fx.Node, source: fx.Node, decision: Decision) -> Decision | None:
    """A softmax keeps the order of its inputs; of two values, that of the greater input is above ½."""
    shape = look.values[node].shape
    dim = int(arguments_of(node)["dim"]) % len(shape)
    if not dim or decision.passed:
        return None
    if decision.cut is not None:
        if op_name(node) in of("log_softmax") or decision.cut != 0.5:
            return None
        if shape[dim] != 2 or decision.columns != 1:
            return None
        step = math.prod(shape[dim + 1 :])
        second = decision.index // step % 2 == 1
        other = torch.where(second, decision.index - step, decision.index + step)
        pair = [other, decision.index] if decision.rising else [decision.index, other]
        return replace(decision, node=source, index=torch.cat(pair, 1), cut=None, rising=True)
    places = list(torch.unravel_index(decision.index, tuple(shape[1:])))
    together = all(bool((p == p[:, :1]).all()) for axis, p in enumerate(places, 1) if axis != dim)
    return replace(decision, node=source) if together else None


def _through(ops: Sequence[fx.Node], x: Tensor) -> Tensor:
    for node in ops:
        x = call_op(node, (x, *node.args[1:]), node.kwargs, like=x)
    return x


_INCREASING = where(lambda row: row.monotone == "strictly increasing")

# (op, cut) → the cut before the op, and whether the op falls
Back = Callable[[fx.Node, float], tuple[float, bool] | None]


def _at(cut: float, before: float) -> Back:
    """An increasing function that takes `before` to `cut`, and nothing else."""
    return lambda node, now: (before, False) if now == cut else None


def _leaky_relu(node: fx.Node, cut: float) -> tuple[float, bool] | None:
    return (0.0, False) if cut == 0 and arguments_of(node)["negative_slope"] > 0 else None


def _clamp(node: fx.Node, cut: float) -> tuple[float, bool] | None:
    return (cut, False) if passes_both_sides(node, cut) else None


def _neg(node: fx.Node, cut: float) -> tuple[float, bool] | None:
    return (-cut, True)


def _rsub(node: fx.Node, cut: float) -> tuple[float, bool] | None:
    """1 − x > ½ where x < ½; other numbers may round."""
    arguments = arguments_of(node)
    return (0.5, True) if (arguments["other"], arguments["alpha"], cut) == (1, 1, 0.5) else None


def _scaled(node: fx.Node, cut: float) -> tuple[float, bool] | None:
    arguments = arguments_of(node)
    factor = arguments["other"]
    plain = (
        isinstance(factor, int | float)
        and 0 < abs(factor) < math.inf
        and arguments.get("rounding_mode") is None
    )
    return (0.0, factor < 0) if plain and cut == 0 else None


# What element-wise ops do to a cut. All of them reach the cut at one point only.
_CUT_BACK: dict[str, Back] = {
    **dict.fromkeys((name for name in _INCREASING if OPS[name].keeps_sign), _at(0.0, 0.0)),
    "clamp": _clamp,
    "div": _scaled,
    "hardsigmoid": _at(0.5, 0.0),
    "hardtanh": _clamp,
    "leaky_relu": _leaky_relu,
    "mul": _scaled,
    "neg": _neg,
    "rsub": _rsub,
    "sigmoid": _at(0.5, 0.0),
}
