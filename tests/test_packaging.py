"""What users install: the wheel, the source distribution, and the package without its extras."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = (
    "PIL",
    "constriction",
    "matplotlib",
    "numba",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pyarrow",
)
TEST_ONLY = ("beartype", "hypothesis", "pandas", "sklearn")

pytestmark = pytest.mark.slow

# Hides packages in the way in which one that is not installed is not there.
WITHOUT_EXTRAS = f"""
import sys
from importlib.machinery import PathFinder

class Others(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in {(*EXTRAS, *TEST_ONLY)}
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Others
"""

PROGRAM = """
import torch
import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports

torch.manual_seed(0)
x = torch.randn(40, 6)
y = (x[:, 0] > 0).long()
net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
for support in (supports.Chain(), supports.Grid()):
    prior = priors.ThreeLayer(support=support)
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    fit = ptv.fit(bnn, (x, y), engine=engines.Turbo(), epochs=2, batch_size=20, progress=False)
small = fit.compress(x, keep=0.5)
small.save("net.ptv")
assert torch.equal(ptv.load("net.ptv")(x), small.module(x))
fit.save("net.fit")
assert len(ptv.Fit.load("net.fit").history) == 2
"""

# A program of somebody else: public names only, every result with its type written down.
TYPED = """
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, likelihoods, priors, supports


def smaller(net: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    prior = priors.ThreeLayer(support=supports.Chain(density=0.05, mean_run=5.0))
    bnn: ptv.BayesianNet = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=prior)
    fit: ptv.Fit = ptv.fit(bnn, (x, y), engine=engines.Turbo(), epochs=2, seed=0)
    probs: dict[str, Tensor] = fit.support_probs()
    elbo: list[float] = fit.history.elbo
    prediction: ptv.Prediction = fit.predict(x, num_samples=2)
    mean: Tensor = prediction.mean
    comparison: ptv.Comparison = ptv.compare({"turbo": fit}, (x, y))
    small: ptv.Compressed = fit.compress(x)
    size: int = small.save("net.ptv")
    left: float = small.report.weights_left
    print(probs, elbo, mean, comparison, size, left)
    try:
        module: nn.Module = ptv.load("net.ptv")
    except ptv.TurboVBIError as error:
        raise SystemExit(str(error)) from error
    return module


smaller(nn.Linear(3, 2), torch.randn(4, 3), torch.zeros(4, dtype=torch.long))
"""
WRONG = """
import pyro_turbovbi as ptv

ptv.load(3)
ptv.no_such_name
ptv.fit("net", "data", epochs="many")
"""


def run(*arguments: str | Path, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a process that does not see this repository."""
    environment = {**os.environ, "PYTHONPATH": "", **variables}
    return subprocess.run(
        [str(a) for a in arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def succeed(*arguments: str | Path, cwd: Path, **variables: str) -> str:
    """Output of a process; an error if it fails."""
    done = run(*arguments, cwd=cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def pip(*arguments: str | Path, cwd: Path) -> None:
    """Runs pip under the pins; skips where the build back end cannot be had."""
    constraints = str(ROOT / "constraints.txt")
    done = run(
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"),
        *arguments,
        cwd=cwd,
        PIP_CONSTRAINT=constraints,
        PIP_BUILD_CONSTRAINT=constraints,
    )
    if "No matching distribution found" in done.stderr:
        pytest.skip("no package index to take hatchling from")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built as a user's pip does it."""
    out = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", out, ROOT, cwd=out)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with the wheel installed; its dependencies are those of this one."""
    home = tmp_path_factory.mktemp("environment")
    succeed(sys.executable, "-m", "venv", "--without-pip", home, cwd=home)
    (site,) = home.glob("lib/python*/site-packages")
    python = home / "bin" / "python"
    pip("--python", python, "install", "--no-deps", "--no-compile", wheel, cwd=home)
    # Paths in a .pth file are searched, but their own .pth files, which lead here, are not read.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"pyro_turbovbi"}
    shipped = {name for name in names if ".dist-info/" not in name}
    files = (path for path in (ROOT / "pyro_turbovbi").rglob("*") if path.is_file())
    ours = {path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts}
    assert shipped == {path.as_posix() for path in ours}
    assert "pyro_turbovbi/py.typed" in shipped
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_distribution_can_be_tested(tmp_path: Path) -> None:
    """It holds what `make test` reads."""
    pip("install", "--target", tmp_path / "backend", "hatchling", cwd=tmp_path)
    build = f"import hatchling.build; hatchling.build.build_sdist({str(tmp_path)!r})"
    succeed(sys.executable, "-c", build, cwd=ROOT, PYTHONPATH=str(tmp_path / "backend"))
    (built,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    needed = {"pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "README.md", "mkdocs.yml"}
    folders = {"pyro_turbovbi", "models", "guides", "recipes", "benchmarks", "tests", "docs"}
    assert needed <= names
    assert folders <= {name.split("/")[0] for name in names}
    assert not any("__pycache__" in name or name.startswith((".venv", "site/")) for name in names)


def test_the_installed_package_works(python: Path, tmp_path: Path) -> None:
    program = "import pyro_turbovbi as p; print(p.__file__)"
    where = succeed(python, "-c", program, cwd=tmp_path).strip()
    assert Path(where).is_relative_to(python.parents[1])
    assert succeed(python.with_name("ptv"), "--help", cwd=tmp_path).startswith("Usage: ptv")


def test_the_core_works_without_extras(python: Path, tmp_path: Path) -> None:
    succeed(python, "-c", WITHOUT_EXTRAS + PROGRAM, cwd=tmp_path)
    assert (tmp_path / "net.ptv").stat().st_size > 0


def test_programs_that_use_it_are_type_checked(python: Path, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED)
    (tmp_path / "wrong.py").write_text(WRONG)
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python)
    done = run(*mypy, "program.py", "wrong.py", cwd=tmp_path)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert [line.split(":")[0] for line in errors] == ["wrong.py"] * len(errors)
    lines = {int(line.split(":")[1]) for line in errors}
    assert lines == {4, 5, 6}, done.stdout + done.stderr
