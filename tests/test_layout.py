"""The shape of the package: imports run one way, optional packages stay optional, only one module prints."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "secateur"

# Each module may import those of lower layers and of its own; `__init__` gives out names and may import all.
LAYERS = {
    **dict.fromkeys(("types", "errors", "files", "progress", "arguments", "amounts", "settings"), 0),
    **dict.fromkeys(
        ("torch_state", "strict_json", "printable", "budget", "memory", "options", "presets", "preprocessor"),
        0,
    ),
    **dict.fromkeys(("graph", "decisions"), 1),
    **dict.fromkeys(("bounds", "surrogates", "inputs", "data"), 2),
    **dict.fromkeys(
        ("reconstruct", "compensate", "surgery", "cost", "channels", "rounded", "quantities", "uniform"), 3
    ),
    **dict.fromkeys(
        (
            "samples",
            "blending",
            "guard",
            "fidelity",
            "verdict",
            "normalisation",
            "pixel_range",
            "outputs",
            "pace",
        ),
        3,
    ),
    **dict.fromkeys(("plan", "run", "certify", "timing"), 4),
    "methods": 5,
    **dict.fromkeys(("request", "result", "outcome", "replay"), 6),
    **dict.fromkeys(("prune", "history", "checkpoint", "validation", "shared", "shares"), 7),
    "support": 7,
    "quantize": 7,
    **dict.fromkeys(("page", "search"), 8),
    "cli": 9,
}
FORBIDDEN = {  # part → parts that it may not import
    "formats": {"prune", "run", "methods", "cli"},
    "evaluate": {"prune", "run", "methods", "cli"},
}
ALLOWED = {
    "report": {"report", "graph", "errors", "files", "types", "printable", "strict_json"}
}  # part → the only parts that it may import
OPTIONAL = (
    *(
        "matplotlib",
        "torch_pruning",
        "pyautoattack",
        "onnx",
        "onnxscript",
        "onnxruntime",
        "keras",
        "h5py",
        "transformers",
        "huggingface_hub",
        "tensorflow",
        "torchvision",
        "PIL",
    ),
    *("hypothesis", "joblib", "optuna", "distributed", "ray", "mlflow"),
)
PROCESSES = "search.engine"  # may use joblib, which pickles what our own processes say to each other


def trees(source: Path) -> dict[str, ast.Module]:
    """Module name below `secateur` (`graph.capture`; empty for the package itself) → its syntax tree."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__")] = ast.parse(
            path.read_text(encoding="utf-8")
        )
    return found


def imported(tree: ast.Module) -> set[str]:
    """Dotted names of all that a module imports, wherever in the file; `from a import b` gives `a` and
    `a.b`.
    """
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name the whole path"
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def own_imports(modules: dict[str, ast.Module]) -> dict[str, set[str]]:
    """Module → modules of the package that it imports."""
    return {
        name: {i.removeprefix("secateur.") for i in imported(tree)} & modules.keys() - {name}
        for name, tree in modules.items()
    }


def wrong_imports(source: Path) -> list[str]:
    found = []
    for name, targets in own_imports(trees(source)).items():
        part = name.partition(".")[0]
        for target in sorted(targets):
            to = target.partition(".")[0]
            upwards = part in LAYERS and to in LAYERS and LAYERS[to] > LAYERS[part]
            low_part = part in LAYERS and LAYERS[part] <= LAYERS["graph"] and to not in LAYERS
            outside = part in ALLOWED and to not in ALLOWED[part]
            if (
                upwards
                or low_part
                or outside
                or to in FORBIDDEN.get(part, ())
                or (to == "cli" and part != "cli")
            ):
                found.append(f"{name} imports {target}")
    return found


def cycles(source: Path) -> list[str]:
    """Modules from which a chain of imports leads back to themselves."""
    graph = {name: targets - {""} for name, targets in own_imports(trees(source)).items() if name}

    def reachable(start: str) -> set[str]:
        seen, frontier = set[str](), [start]
        while frontier:
            new = graph[frontier.pop()] - seen
            seen |= new
            frontier += new
        return seen

    return [name for name in graph if name in reachable(name)]


def calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def unsafe(source: Path) -> list[str]:
    """Where code could come out of a file: pickle, and torch.load but with weights_only=True in `formats`."""
    found = []
    for name, tree in trees(source).items():
        hidden = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "torch.load", "joblib"}
        allowed = {"joblib"} if name == PROCESSES else set()
        found += [f"{name} imports {i}" for i in sorted(imported(tree) & hidden - allowed)]
        for function, call in calls(tree):
            if function == "torch.load":
                only = any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in call.keywords)
                if not (only and name.startswith("formats")):
                    found.append(f"{name}:{call.lineno} torch.load")
            if function in ("eval", "exec", "numpy.load", "np.load"):
                refused = [
                    k for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) == "False"
                ]
                if function in ("eval", "exec") or not refused:
                    found.append(f"{name}:{call.lineno} {function}")
    return found


def printing(source: Path) -> list[str]:
    return [
        f"{name}:{call.lineno} {function}"
        for name, tree in trees(source).items()
        if name != "cli.printing"
        for function, call in calls(tree)
        if function in ("print", "sys.stdout.write", "Console", "typer.echo")
        and not any(keyword.arg == "stderr" for keyword in call.keywords)
    ]


@pytest.mark.slow
def test_imports_run_one_way() -> None:
    assert wrong_imports(SOURCE) == []


@pytest.mark.slow
def test_no_import_cycles() -> None:
    assert cycles(SOURCE) == []


@pytest.mark.slow
def test_every_part_has_its_place() -> None:
    """A new part is put into the tables above, or it would not be checked."""
    parts = {name.partition(".")[0] for name in trees(SOURCE)} - {""}
    assert parts == LAYERS.keys() | FORBIDDEN.keys() | ALLOWED.keys() | {"explain"}


@pytest.mark.slow
def test_nothing_is_unpickled() -> None:
    assert unsafe(SOURCE) == []


@pytest.mark.slow
def test_only_one_module_of_the_command_line_prints() -> None:
    assert printing(SOURCE) == []


@pytest.mark.parametrize(
    ("path", "text", "check", "wanted"),
    [
        ("graph/labels.py", "from secateur.bounds import x", wrong_imports, "graph.labels imports bounds"),
        ("graph/labels.py", "from secateur.report import x", wrong_imports, "graph.labels imports report"),
        ("cost.py", "def f():\n    import secateur.run", wrong_imports, "cost imports run"),
        ("evaluate/a.py", "from secateur import prune", wrong_imports, "evaluate.a imports prune"),
        ("report/recipe.py", "from secateur.bounds import y", wrong_imports, "report.recipe imports bounds"),
        ("run.py", "from secateur.plan import x", cycles, "run"),
        ("run.py", "import pickle", unsafe, "run imports pickle"),
        ("run.py", "import torch\ntorch.load('x', weights_only=True)", unsafe, "run:2 torch.load"),
        ("formats/a.py", "import torch\ntorch.load('x')", unsafe, "formats.a:2 torch.load"),
        ("run.py", "print(1)", printing, "run:1 print"),
        ("cli/prune.py", "print(1)", printing, "cli.prune:1 print"),
    ],
)
def test_each_check_can_fail(tmp_path: Path, path: str, text: str, check, wanted: str) -> None:
    files = {
        "plan.py": "import secateur.run",
        "prune.py": "",
        "bounds/__init__.py": "",
        "report/__init__.py": "",
    }
    for name, content in (files | {path: text}).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "run.py").touch()
    assert wanted in check(tmp_path)


def loaded(statement: str) -> set[str]:
    """Which of the optional packages a fresh Python has loaded after `statement`."""
    script = f"{statement}\nimport sys\nfor name in {OPTIONAL!r}:\n    if name in sys.modules: sys.stdout.write(name + ' ')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.slow
def test_optional_packages_stay_optional() -> None:
    assert loaded("from secateur import *; import secateur.formats, secateur.cli.reading") == set()


def test_the_check_on_optional_packages_can_fail() -> None:
    assert "matplotlib" in loaded("import matplotlib")
