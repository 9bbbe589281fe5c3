"""The project's promises about itself: README, versions, pins, tests and documentation."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.metadata
import itertools
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import pyro_turbovbi
from tests.pages import DOCS, outputs, run_page, run_source

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pyro_turbovbi"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]

FEW_EPOCHS = {"epochs=30": "epochs=1, progress=False"}

# Library modules without a test module at the mirrored path, and the test that covers them.
TESTED_ELSEWHERE = {
    # Tables and working views behind the tracer and the cutter: their tests cut whole networks.
    "pyro_turbovbi.compression.calls": "tests/compression/test_chain.py",
    "pyro_turbovbi.compression.layers": "tests/compression/test_shrink.py",
    "pyro_turbovbi.compression.liveness": "tests/compression/test_shrink.py",
    "pyro_turbovbi.compression.stages": "tests/compression/test_shrink.py",
    "pyro_turbovbi.compression.report": "tests/compression/test_compressed.py",
    "pyro_turbovbi.compression.graph_vocabulary": "tests/compression/test_graph_flow.py",
    "pyro_turbovbi.compression.graph_partition": "tests/compression/test_graph_units.py",
    "pyro_turbovbi.compression.graph_places": "tests/compression/test_graph_units.py",
    # One of the two codings of a file: all of its tests run over both.
    "pyro_turbovbi.compression.plain": "tests/compression/test_artifact.py",
    "pyro_turbovbi.compression.compact_tensors": "tests/compression/test_compact.py",
    # Protocols alone, without code: tested through what implements and what uses them.
    "pyro_turbovbi.diagnostics.protocols": "tests/diagnostics/test_evaluation.py",
    "pyro_turbovbi.engines.protocol": "tests/contract/test_engines.py",
}


def public_modules() -> list[str]:
    """Dotted names of the library's modules, without private ones and packages' `__init__`."""
    paths = (path.relative_to(ROOT).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return sorted(".".join(p.parts) for p in paths if not any(x.startswith("_") for x in p.parts))


def test_readme_has_exactly_two_set_up_commands() -> None:
    section = (ROOT / "README.md").read_text().split("## Set-up")[1].split("\n## ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert commands is not None
    lines = [line.split("#")[0].strip() for line in commands[1].splitlines()]
    assert lines == ["make demo", "make test"]


def test_readme_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_source(first_program(), "README.md", FEW_EPOCHS)
    assert (tmp_path / "net.ptv").stat().st_size > 0
    assert names["module"](names["test"].x).shape == (len(names["test"].y), 10)


def first_program() -> str:
    marked = (ROOT / "README.md").read_text().split("<!-- first-program -->")[1]
    source = re.search(r"```python\n(.*?)```", marked, re.DOTALL)
    assert source is not None
    return source[1]


def test_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "quickstart.md", FEW_EPOCHS)
    assert names["logits"].isfinite().all()
    assert names["loss"] == names["loss"], "the loss is NaN"


def test_the_page_on_smaller_networks_runs() -> None:
    names = run_page(DOCS / "smaller.md", FEW_EPOCHS)
    assert names["soft"][1].shape == (len(names["train"].y), 10)
    assert names["structured"].gate_probs().keys() == {"input", "0.weight", "2.weight"}


def test_the_support_prior_of_your_own_runs() -> None:
    """With all its epochs: it must find what the page says."""
    names = run_page(DOCS / "own-support.md")
    assert names["pairs"].any(0).tolist() == [[n == 2] * 2 for n in range(6)]


def test_the_page_on_deployment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page(DOCS / "deploy.md", FEW_EPOCHS)
    assert names["draws"].shape == (32, len(names["test"].x), 10)
    sizes = {path.stem: path.stat().st_size for path in tmp_path.glob("*.ptv")}
    assert sizes["rough"] == names["rough"].report.bytes < sizes["uncertain"] < sizes["exact"]


def test_the_page_on_data_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = outputs(DOCS / "data.md")
    assert len(shown) == 5
    for printed, text in shown:
        assert text == printed


def test_versions_agree() -> None:
    version = PYPROJECT["version"]
    assert pyro_turbovbi.__version__ == version
    assert importlib.metadata.version("pyro-turbovbi") == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


def test_every_requirement_is_pinned() -> None:
    extras = PYPROJECT["optional-dependencies"].values()
    wanted = [*PYPROJECT["dependencies"], *(name for extra in extras for name in extra)]
    pins = [
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    missing = {re.split(r"[\[>=<]", name)[0].lower() for name in wanted} - set(pins)
    assert not missing, f"not pinned in constraints.txt: {missing}"


def test_every_pin_is_exact_and_portable() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    bad = [x for x in lines if not x.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", x)]
    assert not bad, "pins must name one public version, without a build tag"


@pytest.mark.parametrize("module", public_modules())
def test_every_module_has_a_test_module(module: str) -> None:
    *folders, name = module.split(".")[1:]
    mirrored = ROOT.joinpath("tests", *folders, f"test_{name}.py")
    elsewhere = TESTED_ELSEWHERE.get(module)
    if elsewhere is None:
        assert mirrored.is_file(), f"{module} has no {mirrored.relative_to(ROOT)}"
    else:
        assert (ROOT / elsewhere).is_file(), f"{elsewhere}, named for {module}, is not there"
        assert not mirrored.is_file(), f"{module} has a test module; take it off the list"


def test_api_pages_name_every_public_module_once() -> None:
    pages = (ROOT / "docs" / "api").glob("*.md")
    named = [x for p in pages for x in re.findall(r"^::: (\S+)$", p.read_text(), re.MULTILINE)]
    assert sorted(named) == public_modules()


def documented_names(path: Path) -> set[str]:
    """Names that a module defines with a docstring, which is what its API page shows."""
    body = ast.parse(path.read_text()).body
    names = {
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node)
    }
    for node, after in itertools.pairwise(body):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", 0)]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_every_public_name_has_an_entry() -> None:
    """What packages offer is on the page of the module where it is defined."""
    shown = set().union(*(documented_names(ROOT / path_of(name)) for name in public_modules()))
    for init in sorted(PACKAGE.rglob("__init__.py")):
        package = importlib.import_module(".".join(init.parent.relative_to(ROOT).parts))
        offered = getattr(package, "__all__", ())
        names = {x for x in offered if not isinstance(getattr(package, x), ModuleType)}
        assert names <= shown, f"{package.__name__}: no docstring or no page: {names - shown}"


def path_of(module: str) -> str:
    return module.replace(".", "/") + ".py"


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().split("nav:")[1]
    pages = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert pages == set(re.findall(r": (\S+\.md)$", navigation, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_in_the_documentation_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    layers = [path.stem for path in PACKAGE.iterdir() if not path.stem.startswith("_")]
    starts = "|".join([*layers, *pyro_turbovbi.__all__])
    names = re.findall(rf"`((?:{starts})\.[A-Za-z_.]+)", text)
    names += re.findall(r"`((?:pyro_turbovbi|ptv)\.[A-Za-z_.]+)", text)
    unknown = [name for name in names if not exists(name)]
    assert not unknown, f"{page.name} names what is not there: {unknown}"


def exists(name: str) -> bool:
    """Whether a dotted name, as the documentation writes it, leads to an object or a file."""
    parts = name.rstrip(".").split(".")
    if parts[-1] in ("py", "md", "json", "txt"):
        return True
    found: object = pyro_turbovbi
    for part in parts[1:] if parts[0] in ("pyro_turbovbi", "ptv") else parts:
        if not hasattr(found, part) and isinstance(found, ModuleType):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(f"{found.__name__}.{part}")
        if not hasattr(found, part):
            return False
        found = getattr(found, part)
    return True
