"""Nothing in the packages can run what a file says: modules and calls are searched in the syntax trees."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("shardstore", "pipeline", "trainer", "dateshard")
FORBIDDEN_MODULES = {
    "pickle",
    "_pickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "yaml",
    "jsonpickle",
    "dbm",
}
FORBIDDEN_CALLS = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "os.startfile", "torch.load", "torch.save",
    "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "numpy.fromregex", "pandas.read_pickle",
    "polars.DataFrame.deserialize", "polars.LazyFrame.deserialize", "builtins.eval", "builtins.exec", "pty.spawn",
}  # fmt: skip
ALLOWED = {  # (file, what) -> the reason
    (
        "pipeline/workers/engine.py",
        "pickle",
    ): "tasks and errors in pipes between a process and its own children; no file",
    (
        "pipeline/workers/parcels.py",
        "pickle",
    ): "tasks for a cluster; a file of theirs is hashed with SHA-256 before it is loaded",
    ("pipeline/workers/forked.py", "pickle"): "names the error of a pipe between a process and its own children",
    ("trainer/checkpoint/pth.py", "torch.save"): "writes a .pth for other programs: tensors, numbers and text",
}
SAFE_LOAD = "torch.load"  # allowed only as a call that says weights_only=True itself


def dangers(source: str) -> list[str]:
    """What in a module's text could run what a file says: modules and calls, through whatever name they were imported."""
    module, names, found = ast.parse(source), dict[str, str](), list[str]()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
                found += [alias.name] if alias.name.partition(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            found += [node.module] if node.module.partition(".")[0] in FORBIDDEN_MODULES else []
    safe = {
        id(node.func) for node in ast.walk(module) if isinstance(node, ast.Call) and loads_weights_only(node, names)
    }
    for node in ast.walk(module):
        if id(node) in safe or isinstance(getattr(node, "ctx", None), ast.Store):  # a field of that name runs nothing
            continue
        if isinstance(node, ast.Name | ast.Attribute) and (name := dotted(node, names)) in FORBIDDEN_CALLS:
            found.append(name)
        if isinstance(node, ast.Call):
            found += dangerous_call(node, dotted(node.func, names))
    return found


def loads_weights_only(node: ast.Call, names: dict[str, str]) -> bool:
    """Whether it is torch.load(..., weights_only=True), the constant, and with nothing that could say otherwise."""
    said = [word.value for word in node.keywords if word.arg == "weights_only"]
    plain = all(word.arg in ("weights_only", "map_location", "mmap") for word in node.keywords) and len(node.args) == 1
    plain = plain and not isinstance(node.args[0], ast.Starred)
    constant = [value.value for value in said if isinstance(value, ast.Constant)] == [True]
    return dotted(node.func, names) == SAFE_LOAD and plain and constant


def dangerous_call(node: ast.Call, name: str) -> list[str]:
    options = {word.arg: word.value for word in node.keywords}
    constant = {key: value.value if isinstance(value, ast.Constant) else ... for key, value in options.items()}
    if name in ("numpy.load", "numpy.lib.format.read_array") and constant.get("allow_pickle", True) is not False:
        return [f"{name} without allow_pickle=False"]
    if constant.get("shell", False) is not False or (None in options and name.startswith("subprocess.")):
        return [f"{name} with shell"]
    if name.endswith("YAML") and constant.get("typ", "rt") not in ("rt", "safe"):
        return [f"{name} of type {constant['typ']}"]
    if constant.get("weights_only", True) is not True or constant.get("allow_pickle", False) is not False:
        return [f"{name} that unpickles"]
    return []


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, names)}.{node.attr}"
    return names.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def test_nothing_that_can_run_what_a_file_says_is_called_in_the_packages() -> None:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    assert len(files) > 50
    found = {(str(path.relative_to(ROOT)), what) for path in files for what in dangers(path.read_text())}
    assert found == set(ALLOWED)


DANGEROUS = """
import pickle
from pickle import loads
import marshal as m
import torch; torch.load(p)
import torch as t; t.load(p)
import torch; torch.load(p, weights_only=safe)
import torch; torch.load(p, weights_only=1)
import torch; torch.load(p, weights_only=True, pickle_module=m)
import torch; torch.load(p, weights_only=True, **options)
import torch; torch.load(*given, weights_only=True)
import torch; read = torch.load
from torch import load; load(p)
from torch import load as read; read(p)
read = __import__("torch").load
eval(text)
run = exec
import os; os.system(text)
from os import popen as p; p(text)
import numpy as np; np.load(file)
import numpy as np; np.load(file, allow_pickle=True)
import numpy as np; np.load(file, allow_pickle=flag)
import subprocess; subprocess.run(text, shell=True)
import subprocess as s; s.Popen(text, **options)
import yaml
from ruamel.yaml import YAML; YAML(typ="unsafe")
import x; x.anything(file, weights_only=False)
import shelve
from joblib import load
"""


def test_the_search_finds_each_of_its_dangers_and_nothing_in_plain_code() -> None:
    for line in DANGEROUS.strip().splitlines():
        assert dangers(line), line
    harmless = "import numpy as np\nfrom safetensors.torch import load\nmodel.eval()\nnp.load(f, allow_pickle=False)\nload(x)\n"
    assert dangers("import torch\ntorch.load(p, map_location='cpu', weights_only=True)\n") == []
    assert (
        dangers(harmless + "import subprocess\nsubprocess.run(['ls'], check=True)\nimport json\njson.load(f)\n") == []
    )
