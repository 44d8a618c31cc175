"""Which part of the project may use which: what stands in the import statements."""
import ast
import re

import pytest

from study.variants import LADDER, ROOT, STEPS

PROJECT_STEPS = (*LADDER, "step5_beyond", "step6_fast", "step7_small")
OURS = {"common", "harness", "study", "benchmarks", "bench", "notebook_era", *STEPS}
SLOW = {"harness.plots"}  # to import, because of matplotlib
PROGRAMS = {f"study.{name}" for name in ("sweep", "compare", "claims", "summary", "robustness", "frontier",
                                         "quantize", "report")}
FILES = sorted([*ROOT.glob("*.py"), *(path for folder in ("harness", "study", "benchmarks", "tests")
                                      for path in (ROOT / folder).rglob("*.py"))])


def name_of(path):
    """`study.report` for study/report.py."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(source):
    """What `source` imports: a list of (full name, whether inside a function); `from a import b` is a.b."""
    found = []

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside) for alias in child.names)
            if isinstance(child, ast.ImportFrom):
                module = "." * child.level + (child.module or "")
                found.extend((f"{module}.{alias.name}", inside) for alias in child.names)
            walk(child, inside or isinstance(child, (ast.FunctionDef, ast.Lambda)))

    walk(ast.parse(source), False)
    return found


ALL = {name_of(path): imports(path.read_text()) for path in FILES}


def is_of(name, modules):
    """Whether the imported `name` is one of `modules` or something in them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def parts(*folders):
    return sorted(name for name in ALL if name.split(".")[0] in folders)


def ours(name):
    """What the module `name` imports of this project."""
    return [imported for imported, _ in ALL[name] if is_of(imported, OURS)]


def test_imports_of_every_form_are_seen():
    source = """
import a.b, c
from d import e
from d.e import f as g
from . import h
def i():
    if 1:
        import j"""
    assert imports(source) == [("a.b", False), ("c", False), ("d.e", False), ("d.e.f", False), ("..h", False),
                               ("j", True)]
    assert ("harness.plots", True) in ALL["harness.results"]
    assert ("common.rotate", False) in ALL["study.robustness"]


def test_no_import_is_relative():
    assert not [(name, imported) for name in ALL for imported, _ in ALL[name] if imported.startswith(".")]


@pytest.mark.parametrize("name", parts("harness"))
def test_the_harness_knows_nothing_outside_it(name):
    assert all(is_of(imported, {"harness"}) for imported in ours(name))


def test_common_knows_the_harness_only():
    assert all(is_of(imported, {"harness"}) for imported in ours("common"))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_knows_common_only(step):
    assert ours(step) == ["common"]


@pytest.mark.parametrize("name", parts("benchmarks"))
def test_benchmarks_do_without_the_study(name):
    assert not [imported for imported in ours(name) if is_of(imported, {"study"})]


@pytest.mark.parametrize("name", parts("study"))
def test_the_study_is_in_layers(name):
    above = {"study.report", "study.summary", "bench", "notebook_era"}
    if name in {"study.tables", "study.evidence", "study.verdicts", "study.plots", "study.variants"}:
        above |= PROGRAMS
    assert not [imported for imported in ours(name) if is_of(imported, above)]


@pytest.mark.parametrize("name", parts("harness", "study", "common", *STEPS))
def test_imports_stand_at_the_top_but_for_slow_ones(name):
    assert not [imported for imported, inside in ALL[name] if inside and not is_of(imported, SLOW)]


def test_tests_do_not_import_each_other():
    tests = {name.split(".")[-1] for name in parts("tests")} - {"conftest", "s5_tables"}
    assert len(tests) > 10
    assert not [(name, imported) for name in parts("tests") for imported, _ in ALL[name]
                if is_of(imported.removeprefix("tests."), tests)]


def test_a_step_and_what_it_imports_are_read_in_a_sitting():
    lines = {name: len((ROOT / f"{name}.py").read_text().splitlines()) for name in ("common", *PROJECT_STEPS)}
    assert max(lines["common"] + lines[step] for step in PROJECT_STEPS) < 400


def test_nothing_but_steps_and_common_lies_at_the_root():
    names = [path.name for path in ROOT.glob("*.py")]
    assert not [name for name in names if not re.fullmatch(r"common\.py|step\d+_\w+\.py", name)]
