"""Wrong input on the command line: an exit code, one line, exactly this one, and nothing left."""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pyro_turbovbi.persistence import files
from tests.cli.helpers import ptv
from tests.cli.wrong_inputs import furnish, wrong_recipe


class Case(NamedTuple):
    """A mistake.

    Attributes:
        line: The command; wrong.yaml is the recipe with the mistake in it.
        message: What must be said; {here} stands for the working directory.
        code: The exit code.
        mistake: What in the recipe is replaced by what.
    """

    line: str
    message: str
    code: int = 1
    mistake: tuple[str, str] | None = None


CASES = {
    "misspelt key": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 8, epoch: recipe has no such setting (did you mean 'epochs'?); "
        "given: 2; accepted: net, data, engine, likelihood, prior, epochs, batch_size, "
        "seed",
        mistake=("epochs: 2", "epoch: 2"),
    ),
    "misspelt engine": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 7, engine.kind: unknown kind (did you mean 'Turbo'?); given: "
        "'Turb'; accepted: MAP, NUTS, SVI, Turbo",
        mistake=("kind: Turbo", "kind: Turb"),
    ),
    "engine in lower case": Case(
        "fit recipe.yaml --engine svi",
        "engine.kind: unknown kind (did you mean 'SVI'?); given: 'svi'; accepted: MAP, "
        "NUTS, SVI, Turbo",
    ),
    "misspelt prior": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 6, prior.kind: unknown kind (did you mean 'Normal'?); given: "
        "'Norml'; accepted: GroupHorseshoe, GroupLasso, GroupNormalJeffreys, Horseshoe, "
        "Laplace, LogUniform, Normal, SpikeSlab, StudentT, ThreeLayer",
        mistake=("kind: Normal", "kind: Norml"),
    ),
    "misspelt setting": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 6, prior.scal: Normal has no such setting (did you mean 'scale'?); "
        "given: 0.1; accepted: scale",
        mistake=("kind: Normal", "kind: Normal, scal: 0.1"),
    ),
    "misspelt likelihood": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 5, likelihood.kind: unknown kind (did you mean 'Gaussian'?); "
        "given: 'Gauss'; accepted: Categorical, Bernoulli, Poisson, Gaussian",
        mistake=("kind: Gaussian", "kind: Gauss"),
    ),
    "misspelt loader": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 4, data.kind: unknown kind; given: 'csv'; accepted: cifar10, cifar100, "
        "csv_file, diabetes, digits, fashion_mnist, gated_recovery, image_folder, mnist, npz_file, "
        "parquet_file, recovery, uci",
        mistake=("kind: csv_file", "kind: csv"),
    ),
    "text for a number": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 8, epochs: the value is of the wrong type; given: 'two'; "
        "accepted: an integer",
        mistake=("epochs: 2", "epochs: two"),
    ),
    "no epochs": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 8, epochs: epochs is out of range; given: 0; accepted: 1, 2, ...",
        mistake=("epochs: 2", "epochs: 0"),
    ),
    "batches of nothing": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 9, batch_size: batch_size is out of range; given: 0; accepted: 1, 2, ...",
        mistake=("batch_size: 8", "batch_size: 0"),
    ),
    "negative step": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 7, engine.lr: Turbo setting 'lr' is out of range; given: -1; "
        "accepted: a positive number, or None",
        mistake=("kind: Turbo", "kind: Turbo, lr: -1"),
    ),
    "density above 1": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 6, prior.support.density: density is no probability strictly "
        "between 0 and 1; given: 2; accepted: a number in (0, 1), e.g. 0.05",
        mistake=("kind: Normal", "kind: ThreeLayer, support: {kind: Chain, density: 2}"),
    ),
    "no network": Case(
        "fit wrong.yaml",
        "2 values of wrong.yaml cannot be read - wrong.yaml, line 1, net: recipe needs "
        "it; given: {'epochs': 2}; accepted: net, data, engine, likelihood, prior, "
        "epochs, batch_size, seed - wrong.yaml, line 1, data: recipe needs it; given: "
        "{'epochs': 2}; accepted: net, data, engine, likelihood, prior, epochs, "
        "batch_size, seed",
        mistake=("*", "epochs: 2"),
    ),
    "no YAML": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 4 is not valid YAML; given: while parsing a flow sequence, "
        "expected ',' or ']', but got ':'",
        mistake=("[2, 1]", "[2, 1"),
    ),
    "a key twice": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 9 holds no plain data; given: the key 'epochs' twice; accepted:"
        " every key once",
        mistake=("epochs: 2", "epochs: 2\nepochs: 3"),
    ),
    "a list": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 1: the value is of the wrong type; given: [1]; accepted: a mapping",
        mistake=("*", "- 1\n"),
    ),
    "an empty file": Case(
        "fit wrong.yaml",
        "wrong.yaml: the value is of the wrong type; given: null; accepted: a mapping",
        mistake=("*", ""),
    ),
    "no prior": Case(
        "fit wrong.yaml",
        "torch.nn:Linear gives a plain network, and the recipe has no prior; accepted: "
        "both in the recipe, or a call that gives a lifted net",
        mistake=("prior: {kind: Normal}\n", ""),
    ),
    "a pattern that matches nothing": Case(
        "fit wrong.yaml",
        "a prior is declared for a parameter that the net does not have; given: "
        "conv.weight; accepted: a name or shell-style pattern of weight, bias",
        mistake=("{kind: Normal}", "{sites: {conv.weight: {kind: Normal}}}"),
    ),
    "no such module": Case(
        "fit wrong.yaml",
        "a module cannot be imported; given: torch.n; accepted: 'package.module:function'"
        " or 'path/to/file.py:function'",
        mistake=("torch.nn:Linear", "torch.n:Linear"),
    ),
    "no such function": Case(
        "fit wrong.yaml",
        "{here}/model.py has no make; given: {here}/model.py:make; accepted: build, sized, nothing",
        mistake=("torch.nn:Linear", "model.py:make"),
    ),
    "no such file of code": Case(
        "fit wrong.yaml",
        "a file with code is not there; given: {here}/missing.py; accepted: a path "
        "relative to the recipe's file, or an absolute one",
        mistake=("torch.nn:Linear", "missing.py:build"),
    ),
    "no address": Case(
        "fit wrong.yaml",
        "wrong.yaml, line 2, net.call: this is no address of a function; given: "
        "'torch.nn.Linear'; accepted: 'package.module:function' or "
        "'path/to/file.py:function'",
        mistake=("torch.nn:Linear", "torch.nn.Linear"),
    ),
    "too few arguments": Case(
        "fit wrong.yaml",
        "{here}/model.py:sized does not take these arguments; given: missing a required "
        "argument: 'hidden'; accepted: (inputs, outputs, hidden)",
        mistake=("torch.nn:Linear", "model.py:sized"),
    ),
    "what is no network": Case(
        "fit wrong.yaml",
        "{here}/model.py:nothing gives no network; given: int; accepted: a "
        "torch.nn.Module, or a net that ptv.lift gave",
        mistake=("torch.nn:Linear\n  arguments: [2, 1]", "model.py:nothing"),
    ),
    "no such recipe": Case(
        "fit missing.yaml",
        "missing.yaml cannot be read; given: No such file or directory; accepted: a text "
        "file in UTF-8",
    ),
    "a recipe of another kind": Case(
        "fit table.csv",
        "this is neither a recipe nor a model file; given: table.csv; accepted: a file "
        "ending in .yaml, .yml, .toml, .py, or a run",
    ),
    "a model without data": Case(
        "fit model.py",
        "a model file comes without data; given: model.py; accepted: --data with a name "
        "that `ptv data list` shows, a file or folder of your own, or "
        "package.module:function",
    ),
    "a model without a prior": Case(
        "fit model.py --data table.csv --target price",
        "{here}/model.py:build gives a plain network, and the recipe has no likelihood "
        "and no prior; accepted: both in the recipe, or a call that gives a lifted net",
    ),
    "no such model": Case(
        "fit missing.py --data table.csv --target price",
        "a file with code is not there; given: {here}/missing.py; accepted: a path "
        "relative to the recipe's file, or an absolute one",
    ),
    "no file of a prior": Case(
        "fit recipe.yaml --prior missing.yaml",
        "missing.yaml cannot be read; given: No such file or directory; accepted: a text "
        "file in UTF-8",
    ),
    "a prior that is no YAML": Case(
        "fit recipe.yaml --prior '{kind: Normal'",
        "--prior, line 1 is not valid YAML; given: while parsing a flow mapping, expected"
        " ',' or '}', but got '<stream end>'",
    ),
    "no value to set": Case(
        "fit recipe.yaml --set engine.lr",
        "this is no change of a setting; given: engine.lr; accepted: key=value, such as "
        'engine.lr=0.004, net.arguments[0]=64 or prior.sites["0.weight"].scale=1',
    ),
    "text for a step": Case(
        "fit recipe.yaml --set engine.lr=fast",
        "engine.lr: the value is of the wrong type; given: 'fast'; accepted: a number, or"
        " leave it out",
    ),
    "past the end of a list": Case(
        "fit recipe.yaml --set net.arguments[7]=1",
        "there is no net.arguments[7]; given: a list of 2; accepted: an item of a list",
    ),
    "a key below a number": Case(
        "fit recipe.yaml --set epochs.more=1",
        "there is no epochs.more; given: 2; accepted: another value for epochs itself",
    ),
    "no passes": Case(
        "fit recipe.yaml --epochs 0",
        "Invalid value for '--epochs': Input should be greater than or equal to 1; `ptv "
        "fit --help` lists what there is",
        code=2,
    ),
    "a directory in use": Case(
        "fit recipe.yaml --out run",
        "the directory is not empty; given: run; accepted: another --out; or --resume, if"
        " a training was interrupted there",
    ),
    "a file for a directory": Case(
        "fit recipe.yaml --out table.csv",
        "the directory cannot be made: File exists; given: table.csv",
    ),
    "nothing to resume": Case(
        "fit recipe.yaml --resume",
        "there is nothing to resume; given: runs/recipe; accepted: the directory of an "
        "interrupted training; or no --resume, to start anew",
    ),
    "finished already": Case(
        "fit run --resume",
        "the training is finished; given: run; accepted: the directory of an interrupted "
        "training; or no --resume, to start anew",
    ),
    "no such table": Case(
        "fit recipe.yaml --data missing.csv --target price",
        "the file cannot be read: No such file or directory; given: {here}/missing.csv",
    ),
    "no such column": Case(
        "fit recipe.yaml --target cost",
        "{here}/table.csv has no column 'cost'; accepted: size, age, price",
    ),
    "no name of a set": Case(
        "fit recipe.yaml --data uci",
        "data.name: uci needs it; given: {'kind': 'uci'}; accepted: name, split, root, "
        "validation, seed",
    ),
    "a target of what has none": Case(
        "fit recipe.yaml --data digits --target price",
        "data.target: digits has no such setting; given: 'price'; accepted: seed",
    ),
    "text in a table": Case(
        "fit recipe.yaml --data text.csv --target price",
        "{here}/text.csv, line 4, column 'size' holds no finite number; given: 'large'; "
        "accepted: a number; classes as text are for the target alone",
    ),
    "a gap in a table": Case(
        "fit recipe.yaml --data gap.csv --target price",
        "{here}/gap.csv, line 4, column 'size' holds no finite number; given: ''; "
        "accepted: a number; classes as text are for the target alone",
    ),
    "a table without rows": Case(
        "fit recipe.yaml --data empty.csv --target price",
        "{here}/empty.csv is no table; given: 1 lines; accepted: a header and rows",
    ),
    "no such module of data": Case(
        "fit recipe.yaml --data no.module:data",
        "a module cannot be imported; given: no.module; accepted: "
        "'package.module:function' or 'path/to/file.py:function'",
    ),
    "no such folder": Case(
        "fit recipe.yaml --data pictures/",
        "the folder cannot be read: No such file or directory; given: {here}/pictures",
    ),
    "no images": Case(
        "fit recipe.yaml --data run",
        "{here}/run has no two classes of images; given: folders with images: none; "
        "accepted: one folder a class, images ending in .bmp, .gif, .jpeg, .jpg, .png, "
        ".webp",
    ),
    "an archive without targets": Case(
        "fit recipe.yaml --data x.npz",
        "{here}/x.npz has no array 'y'; given: ['x']; accepted: x and y",
    ),
    "what is no archive": Case(
        "fit recipe.yaml --data no.npz",
        "{here}/no.npz is no NumPy archive; accepted: a file from numpy.savez(path, x=..., y=...)",
    ),
    "too few inputs": Case(
        "fit recipe.yaml --set 'net.arguments=[3, 1]'",
        "the network cannot take a batch of inputs (mat1 and mat2 shapes cannot be "
        "multiplied (8x2 and 3x1)); given: inputs (8, 2) torch.float32; accepted: inputs "
        "of the shape and dtype that the network was written for",
    ),
    "classes that are numbers": Case(
        "fit recipe.yaml --set likelihood.kind=Categorical",
        "class labels have the wrong type; given: torch.float32; accepted: an integer "
        "dtype such as torch.int64; or class probabilities of the output's shape",
    ),
    "nothing to train on": Case(
        "fit recipe.yaml --set data.test=0.99",
        "the number of held-out points leaves no training point; given: 44; accepted: 0 to 39",
    ),
    "no such command": Case(
        "train recipe.yaml",
        "No such command 'train'; `ptv --help` lists what there is",
        code=2,
    ),
    "no such option": Case(
        "fit recipe.yaml --epoch 3",
        "No such option: --epoch (Possible options: --epochs); `ptv fit --help` lists "
        "what there is",
        code=2,
    ),
    "no argument": Case(
        "fit",
        "Missing argument 'RECIPE'; `ptv fit --help` lists what there is",
        code=2,
    ),
    "words for a number": Case(
        "fit recipe.yaml --epochs many",
        "Invalid value for '--epochs': Input should be a valid integer, unable to parse "
        "string as an integer; `ptv fit --help` lists what there is",
        code=2,
    ),
    "negative epochs between checkpoints": Case(
        "fit recipe.yaml --checkpoint-every -1",
        "Invalid value for '--checkpoint-every': Input should be greater than or equal to"
        " 0; `ptv fit --help` lists what there is",
        code=2,
    ),
    "a place for checkpoints that is a file": Case(
        "fit recipe.yaml --out new --checkpoint table.csv",
        "the directory cannot be made: File exists; given: {here}/table.csv",
    ),
    "checkpoints of another training": Case(
        "fit recipe.yaml --out new --checkpoint kept",
        "the directory holds checkpoints of another training; given: kept; accepted: another "
        "--checkpoint; or `ptv fit RUN --resume`, to go on with it",
    ),
    "checkpoints that are nowhere": Case(
        "fit damaged --resume --checkpoint missing",
        "there is nothing to resume; given: missing; accepted: the directory of an interrupted "
        "training; or no --resume, to start anew",
    ),
    "pictures that are damaged": Case(
        "report damaged_stages",
        "the file holds no stages: it is not a file of this package, or it is damaged",
    ),
    "a report of what is no run": Case(
        "report missing",
        "this is no run; given: missing; accepted: a directory from `ptv fit`, with "
        "fit.safetensors",
    ),
    "no directory for the page": Case(
        "report run --out missing/page.html",
        "there is no such directory; given: missing/page.html; accepted: a file in one that exists",
    ),
    "negative tolerance": Case(
        "compress run --tolerance -1",
        "Invalid value for '--tolerance': Input should be greater than or equal to 0; "
        "`ptv compress --help` lists what there is",
        code=2,
    ),
    "comparing what is no run": Case(
        "compare run missing",
        "this is no run; given: missing; accepted: a directory from `ptv fit`, with "
        "fit.safetensors",
    ),
    "compressing what is no run": Case(
        "compress missing",
        "this is no run; given: missing; accepted: a directory from `ptv fit`, with "
        "fit.safetensors",
    ),
    "no directory for the file": Case(
        "compress run --out missing/net.ptv",
        "there is no such directory; given: missing/net.ptv; accepted: a file in one that exists",
    ),
    "a damaged fit": Case(
        "compress damaged",
        "the file is damaged or holds no fit: Error while deserializing: incomplete "
        "metadata, file not fully covered",
    ),
    "no such network": Case(
        "inspect missing.ptv",
        "the file cannot be read; given: missing.ptv (No such file or directory); "
        "accepted: a saved network",
    ),
    "what is no network file": Case(
        "inspect table.csv",
        "the file holds no compressed network: it is not a file of this package, or it is damaged",
    ),
    "no such data set": Case(
        "data get cifar",
        "unknown data set; given: cifar; accepted: digits, diabetes, mnist, fashion_mnist, "
        "cifar10, cifar100, uci, recovery, gated_recovery, csv_file, parquet_file, npz_file, "
        "image_folder",
    ),
    "nothing to fetch": Case(
        "data get digits --to new",
        "there is nothing to fetch for this name; given: digits; accepted: mnist, fashion_mnist, "
        "cifar10, cifar100, uci/bostonHousing, uci/concrete, uci/energy, uci/kin8nm, "
        "uci/naval-propulsion-plant, uci/power-plant, uci/protein-tertiary-structure, "
        "uci/wine-quality-red, uci/yacht, uci",
    ),
    "what is no Parquet file": Case(
        "fit recipe.yaml --data no.parquet --target price --out new",
        "{here}/no.parquet is no Parquet file that can be read",
    ),
    "no such Parquet file": Case(
        "init new --data missing.parquet --target price",
        "the file cannot be read: No such file or directory; given: {here}/missing.parquet",
    ),
    "a Parquet file without a target": Case(
        "fit recipe.yaml --data no.parquet --out new",
        "data.target: parquet_file needs it; given: {'kind': 'parquet_file', 'path': "
        "'{here}/no.parquet'}; accepted: path, target, classes, validation, test, seed",
    ),
    "a recipe that is there": Case(
        "init",
        "there is such a file already; given: recipe.yaml; accepted: another directory",
    ),
    "no column to start from": Case(
        "init new --data table.csv --target cost",
        "{here}/table.csv has no column 'cost'; accepted: size, age, price",
    ),
    "no such data to start from": Case(
        "init new --data digit",
        "data.kind: unknown kind (did you mean 'digits'?); given: 'digit'; accepted: "
        "cifar10, cifar100, csv_file, diabetes, digits, fashion_mnist, gated_recovery, "
        "image_folder, mnist, npz_file, parquet_file, recovery, uci",
    ),
    "no such demo": Case(
        "demo --data cifar --out new",
        "unknown data set; given: cifar; accepted: digits, mnist",
    ),
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with everything in it, made once."""
    folder = tmp_path_factory.mktemp("w")
    before = Path.cwd()
    os.chdir(folder)
    try:
        furnish(folder)
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def there(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory, entered."""
    monkeypatch.chdir(workplace)
    return workplace


def content(folder: Path) -> set[str]:
    """Names of all files and directories."""
    return {str(path) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_wrong_input(case: Case, there: Path) -> None:
    before = content(there)
    if case.mistake is not None:
        (there / "wrong.yaml").write_text(wrong_recipe(*case.mistake))
    done = ptv(*shlex.split(case.line))
    (there / "wrong.yaml").unlink(missing_ok=True)
    assert done.stderr.replace(str(there), "{here}") == f"error: {case.message}\n"
    assert done.exit_code == case.code
    assert done.stdout == ""
    assert content(there) == before, "what failed leaves nothing behind"


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 40
    assert len({case.message for case in CASES.values()}) >= 40


# What the disk does not do -----------------------------------------------------------------------


def fail(number: int) -> Any:
    """Something that the operating system refuses."""

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "fit recipe.yaml --out full",
            "the file cannot be written: No space left on device; "
            "given: full/checkpoints/step-000000000.safetensors",
        ),
        (
            "fit recipe.yaml --out full --checkpoint-every 0",
            "the file cannot be written: No space left on device; given: full/fit.safetensors",
        ),
        (
            "compress run --out full.ptv",
            "the file cannot be written: No space left on device; given: full.ptv",
        ),
    ],
)
def test_a_full_disk(line: str, message: str, there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(there)
    monkeypatch.setattr(files, "_write", fail(errno.ENOSPC))
    done = ptv(*line.split())
    assert (done.exit_code, done.stderr) == (1, f"error: {message}\n")
    assert content(there) == before


@pytest.mark.parametrize(
    ("line", "refused", "message"),
    [
        (
            "fit recipe.yaml --out locked/run",
            "mkdir",
            "the directory cannot be made: Permission denied; given: locked/run",
        ),
        (
            "init locked",
            "mkdir",
            "the directory cannot be made: Permission denied; given: locked",
        ),
        (
            "fit recipe.yaml --out run/new",
            "write_text",
            "run/new/recipe.yaml cannot be written; given: Permission denied",
        ),
        (
            "inspect run/net.ptv",
            "read_bytes",
            "the file cannot be read; given: run/net.ptv (Permission denied); "
            "accepted: a saved network",
        ),
        (
            "compress run",
            "read_bytes",
            "the file cannot be read: Permission denied; given: run/fit.safetensors",
        ),
    ],
)
def test_no_permission(
    line: str, refused: str, message: str, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(there)
    with monkeypatch.context() as patch:
        patch.setattr(Path, refused, fail(errno.EACCES))
        done = ptv(*line.split())
    assert (done.exit_code, done.stderr) == (1, f"error: {message}\n")
    assert content(there) == before
