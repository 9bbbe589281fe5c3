"""VGG-16 and ResNet-20 on CIFAR-10: error, size, structure and cost of Turbo-VBI, in minutes.

    python benchmarks/cifar10.py                              everything, on a GPU -> JSON, table
    python benchmarks/cifar10.py --net vgg_16 --candidate "chain, KL 0.03"   a part of it
    python benchmarks/cifar10.py --minutes 6                  no new run that would take longer
    python benchmarks/cifar10.py --device cpu --tiny          narrow nets, a few images: a rehearsal

Protocol: 45,000 training images, 5,000 for every choice, 10,000 test images. Plain training first
(SGD with momentum, one cycle of the learning rate); from its result Turbo-VBI goes on, once per
candidate; its posterior is cut, and what is left of the network trained further. Of the candidates
whose error on the 5,000 images is at most `ALLOWANCE` above the dense net's, the smallest is
chosen (if there is none, the one with the least error), and only the chosen one sees the test
images. Random crops and mirror images throughout, and bfloat16 arithmetic in the nets on a GPU.
Runs are kept one by one in ``results/cifar10/``, networks in ``cache/cifar10/``: an interrupted
benchmark goes on where it stopped. A run that fails is reported, and the next one goes on.
"""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import pyro_turbovbi as ptv
from benchmarks.common import cached, error_percent, file_name, plain_step, stored, write_json
from pyro_turbovbi import data, engines, likelihoods, priors, supports
from pyro_turbovbi.compression import FineTune, fine_tune
from pyro_turbovbi.data import TensorPair, TransformedTensors

FOLDER = Path(__file__).parent
#: Percentage points of error that a smaller network may cost.
ALLOWANCE = 2.0
DENSE = "dense"
Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """A configuration of Turbo-VBI that is tried."""

    support: supports.Support
    kl_weight: float
    shared_gates: bool = False
    lr: float = 1e-3

    def prior(self) -> priors.ThreeLayer:
        """The weight prior."""
        gates: Any = "shared" if self.shared_gates else None
        return priors.ThreeLayer(support=self.support, gates=gates)

    def engine(self) -> engines.Turbo:
        """The engine."""
        return engines.Turbo(kl_weight=self.kl_weight, lr=self.lr)


@dataclass(frozen=True)
class Net:
    """A net of the gallery.

    Attributes:
        name: Its name in tables.
        max_lr: Highest rate of plain training.
        tiny_width: Factor on its widths in a rehearsal.
        chain: Whether its layers are a chain, so that files hold it without its class.
        candidates: What is tried on it.
    """

    name: str
    max_lr: float
    tiny_width: float
    chain: bool
    candidates: dict[str, Candidate]


HEAVY, LIGHT = supports.Chain(0.05, mean_run=5.0), supports.Chain(0.2, mean_run=5.0)
NETS = {
    "vgg_16": Net(
        "VGG-16",
        0.1,
        0.0625,
        True,
        {
            "chain, KL 0.1": Candidate(HEAVY, 0.1),
            "chain, KL 0.03": Candidate(HEAVY, 0.03),
            "shared gates, KL 0.1": Candidate(HEAVY, 0.1, shared_gates=True),
            "chain, KL 0.2": Candidate(HEAVY, 0.2),
        },
    ),
    "resnet_20": Net(
        "ResNet-20",
        0.2,
        0.25,
        False,
        {
            "chain, KL 0.1": Candidate(LIGHT, 0.1),
            "chain, KL 0.03": Candidate(LIGHT, 0.03),
        },
    ),
}


@dataclass(frozen=True)
class Plan:
    """How long everything takes, and on what.

    Attributes:
        pretrain: Epochs of plain training.
        epochs: Epochs of Turbo-VBI.
        fine_tune: Epochs of the cut network.
        batch: Images a step.
        seed: Seed of everything random.
        points: Training images; None: all.
        width: Factor on the widths of the nets; None: 1.
    """

    pretrain: int
    epochs: int
    fine_tune: int
    batch: int
    seed: int = 0
    points: int | None = None
    width: float | None = None


# --- data and nets --------------------------------------------------------------------------------


def images(plan: Plan, device: torch.device) -> data.Splits:
    """The data set on the device, or evenly spaced images of it."""
    splits = data.cifar10(validation=5000)
    rows = slice(None, None, 1 if plan.points is None else len(splits.train.x) // plan.points)
    train, validation, test = (
        TensorPair(part.x[rows].to(device), part.y[rows].to(device)) for part in splits
    )
    return data.Splits(train, validation, test, source=splits.source)


def views(x: Tensor) -> Tensor:
    """Random views, in the memory format in which convolutions are fastest."""
    return channels_last(data.augment(x))


def channels_last(x: Tensor) -> Tensor:
    """The same images with the channels of a pixel side by side; on the CPU as they are."""
    return x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x


def make_net(name: str, plan: Plan) -> nn.Module:
    """A net of the gallery with fresh weights."""
    path = FOLDER.parent / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"models_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(plan.seed)
    net: nn.Module = module.network(plan.width or 1.0)
    return net


def precision(device: torch.device) -> torch.dtype | None:
    """In what the nets compute."""
    return torch.bfloat16 if device.type == "cuda" else None


def wait(device: torch.device) -> None:
    """Until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_megabytes(device: torch.device) -> float | None:
    """Most memory that was in use on the device since the last call."""
    if device.type != "cuda":
        return None
    most = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return round(most, 1)


def device_name(device: torch.device) -> str:
    """What the benchmark runs on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


# --- runs -----------------------------------------------------------------------------------------


def batches(train: TensorPair, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of random views, without the last batch if it is not full."""
    order = torch.randperm(len(train.x)).to(train.x.device)
    for rows in order.split(size):
        if len(rows) == size or len(order) < size:
            yield views(train.x[rows]), train.y[rows]


def plain_training(net: nn.Module, max_lr: float, plan: Plan, train: TensorPair) -> list[float]:
    """SGD with Nesterov momentum under one cycle of the learning rate; seconds of every epoch."""
    device = train.x.device
    decayed = [p for p in net.parameters() if p.dim() > 1]
    kept = [p for p in net.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 5e-4}, {"params": kept}]
    optimizer = torch.optim.SGD(groups, lr=max_lr, momentum=0.9, nesterov=True)
    steps = plan.pretrain * max(1, len(train.x) // plan.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr, total_steps=steps + 1, pct_start=0.25, cycle_momentum=False
    )
    seconds = []
    for _ in range(plan.pretrain):
        started = time.perf_counter()
        for x, y in batches(train, plan.batch):
            with torch.autocast(device.type, precision(device), enabled=device.type == "cuda"):
                loss = nn.functional.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        wait(device)
        seconds.append(time.perf_counter() - started)
    return seconds


def dense_run(name: str, plan: Plan, splits: data.Splits, path: Path) -> Row:
    """Plain training; the net goes to a file."""
    device = splits.train.x.device
    net = make_net(name, plan).to(device)
    peak_megabytes(device)
    seconds = plain_training(net, NETS[name].max_lr, plan, splits.train)
    net.eval()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous().cpu() for key, value in net.state_dict().items()}, path)
    return {
        "validation_error_percent": error_percent(net, splits.validation),
        "test_error_percent": error_percent(net, splits.test),
        "parameters": sum(p.numel() for p in net.parameters()),
        "seconds": sum(seconds),
        "epoch_seconds": statistics.median(seconds),
        "peak_megabytes": peak_megabytes(device),
    }


def turbo_run(
    candidate: Candidate, net: nn.Module, plan: Plan, splits: data.Splits, path: Path
) -> Row:
    """Turbo-VBI from a trained net, cut and trained further; the network goes to a file."""
    train, device, started = splits.train, splits.train.x.device, time.perf_counter()
    likelihood = likelihoods.Categorical()
    bnn = ptv.lift(net, likelihood=likelihood, prior=candidate.prior())
    peak_megabytes(device)
    seen = TransformedTensors(train.x, train.y, views)
    fit = ptv.fit(
        bnn,
        seen,
        engine=candidate.engine(),
        epochs=plan.epochs,
        seed=plan.seed,
        batch_size=plan.batch,
        device=device,
        autocast=precision(device),
        callbacks=[progress],
        progress=False,
    )
    memory = peak_megabytes(device)
    small = fit.compress(train.x[:2048])
    cut = error_percent(small.module, splits.validation)
    if plan.fine_tune:
        how = FineTune(epochs=plan.fine_tune, lr=1e-4, batch_size=plan.batch)
        small = fine_tune(small, seen, likelihood, settings=how, validation=splits.validation)
    small.save(path)
    total = small.report.regularity_total
    history = [record.seconds for record in fit.history]
    return {
        "validation_error_percent": error_percent(small.module, splits.validation),
        "before_fine_tuning_percent": cut,
        "posterior_mean_percent": error_percent(fit.mean_net(), splits.validation),
        "weights_left_percent": 100.0 * small.report.weights_left,
        "times_smaller": 1.0 / small.report.weights_left,
        "structure": str(small.report.structure),
        "clusters": total.clusters,
        "mean_cluster_length": total.mean_cluster_length,
        "bytes": small.report.bytes,
        "elbo": fit.elbo,
        "fit_seconds": fit.seconds,
        "seconds": time.perf_counter() - started,
        "epoch_seconds": statistics.median(
            b - a for a, b in zip([0.0, *history], history, strict=False)
        ),
        "peak_megabytes": memory,
        "density": fit.history[-1].density,
    }


def progress(record: ptv.EpochRecord, _: Callable[[], ptv.Fit]) -> None:
    """A line an epoch."""
    shares = record.density.values()
    print(
        f"  epoch {record.epoch}: {record.seconds:.1f} s, loss {record.loss:.0f}, mean density "
        f"{statistics.mean(shares):.4f}",
        flush=True,
    )


def cost(candidate: Candidate, net: nn.Module, plan: Plan, splits: data.Splits) -> Row:
    """Steps of Turbo-VBI over steps of plain Adam, in alternating blocks; Module B's share.

    All take the same views in the same precision. The share is that of one exchange at every
    `message_interval` steps. On a GPU there are also steps of Turbo-VBI on the compiled net.
    """
    train, device = splits.train, splits.train.x.device
    turbo = _steps(candidate, net, splits)
    plain = copy.deepcopy(net).train()
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-5, fused=True)
    x, y = views(train.x[: plan.batch]), train.y[: plan.batch]

    def adam_step() -> None:
        with torch.autocast(device.type, precision(device), enabled=device.type == "cuda"):
            plain_step(plain, optimizer, x, y)

    steps: dict[str, Callable[[], object]] = {"turbo": lambda: turbo.step(x, y), "adam": adam_step}
    if device.type == "cuda":
        for mode in ("default", "reduce-overhead"):
            fast = _steps(candidate, net, splits)
            fast.setup(x, y)
            cast(ptv.BayesianNet, fast.model).compiler = functools.partial(torch.compile, mode=mode)
            steps[f"turbo, compiled ({mode})"] = functools.partial(fast.step, x, y)
    for step in steps.values():  # the first one compiles
        step()
    repeats = 20 if device.type == "cuda" else 2
    seconds: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(4):
        for method, step in steps.items():
            seconds[method].append(_mean_seconds(step, repeats, device))
    exchange = min(_mean_seconds(turbo.exchange, 3, device) for _ in range(2))
    step_seconds = {method: statistics.median(taken[1:]) for method, taken in seconds.items()}
    interval = candidate.engine().message_interval(plan.epochs * max(1, len(train.x) // plan.batch))
    return {
        "step_ms": {method: 1e3 * taken for method, taken in step_seconds.items()},
        "exchange_ms": 1e3 * exchange,
        "step_cost_ratio": step_seconds["turbo"] / step_seconds["adam"],
        "module_b_percent": 100.0 * exchange / (exchange + interval * step_seconds["turbo"]),
    }


def _steps(candidate: Candidate, net: nn.Module, splits: data.Splits) -> ptv.TurboVBI:
    """Turbo-VBI on a copy of a net, without messages unless they are asked for."""
    train, device = splits.train, splits.train.x.device
    bnn = ptv.lift(net, likelihood=likelihoods.Categorical(), prior=candidate.prior()).to(device)
    bnn.num_data, bnn.autocast = len(train.x), precision(device)
    settings = replace(candidate.engine(), messages_every=10**9)
    return ptv.TurboVBI(bnn.train(), settings=settings, num_steps=100_000)


def _mean_seconds(step: Callable[[], object], repeats: int, device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    wait(device)
    return (time.perf_counter() - started) / repeats


# --- what is run, and what comes out --------------------------------------------------------------


@dataclass
class Session:
    """Runs that are kept, within a time."""

    plan: Plan
    splits: data.Splits
    runs: Path
    cache: Path
    deadline: float

    @property
    def device(self) -> torch.device:
        """Where the images lie."""
        return self.splits.train.x.device

    def recipe(self, net: str, candidate: Candidate | None) -> Row:
        """Everything that a run depends on."""
        known: Row = {"plan": asdict(self.plan), "net": net, "device": device_name(self.device)}
        known |= {"images": self.splits.source, "max_lr": NETS[net].max_lr}
        if candidate is not None:
            known |= {"support": repr(candidate.support), "shared_gates": candidate.shared_gates}
            known |= {"engine": asdict(candidate.engine())}
        return json.loads(json.dumps(known))  # type: ignore[no-any-return]

    def file(self, net: str, method: str) -> str:
        """Name of a run's files, without the ending."""
        return f"{net}-{file_name(method)}"

    def dense(self, net: str) -> Row:
        """Plain training, or what is stored of it."""
        path = self.cache / f"{self.file(net, DENSE)}.safetensors"
        recipe, kept = self.recipe(net, None), self.runs / f"{self.file(net, DENSE)}.json"
        if not path.exists():
            kept.unlink(missing_ok=True)
        return cached(kept, recipe, lambda: dense_run(net, self.plan, self.splits, path))

    def trained(self, net: str) -> nn.Module:
        """The net that plain training gave."""
        made = make_net(net, self.plan)
        made.load_state_dict(load_file(self.cache / f"{self.file(net, DENSE)}.safetensors"))
        return made.to(self.device)

    def candidate(self, net: str, name: str) -> Row | None:
        """A run of Turbo-VBI, or what is stored of it; None if there is no time for it."""
        chosen = NETS[net].candidates[name]
        recipe, kept = self.recipe(net, chosen), self.runs / f"{self.file(net, name)}.json"
        if stored(kept, recipe) is None and self._late(net):
            return None
        path = self.cache / f"{self.file(net, name)}.ptv"
        run = lambda: turbo_run(chosen, self.trained(net), self.plan, self.splits, path)  # noqa: E731
        return cached(kept, recipe, run)

    def _late(self, net: str) -> bool:
        """Whether a run as long as the longest of this net would end too late."""
        known = [json.loads(path.read_text()) for path in self.runs.glob(f"{net}-*.json")]
        longest = max((run["seconds"] for run in known if "density" in run), default=0.0)
        return time.monotonic() + longest > self.deadline

    def cost(self, net: str) -> Row:
        """What a step costs, or what is stored of it."""
        name, candidate = next(iter(NETS[net].candidates.items()))
        path = self.runs / f"{self.file(net, name)}-cost.json"
        run = lambda: cost(candidate, self.trained(net), self.plan, self.splits)  # noqa: E731
        return cached(path, self.recipe(net, candidate), run)

    def test_error(self, net: str, name: str) -> float:
        """Error of a stored network on the test images."""
        instance = None if NETS[net].chain else make_net(net, self.plan)
        module = ptv.load(self.cache / f"{self.file(net, name)}.ptv", instance)
        return error_percent(module.to(self.device), self.splits.test)


def chosen(dense: Row, runs: dict[str, Row]) -> str:
    """The candidate that the validation images choose."""
    bound = dense["validation_error_percent"] + ALLOWANCE
    good = {n: run for n, run in runs.items() if run["validation_error_percent"] <= bound}
    if good:
        return min(good, key=lambda name: float(good[name]["weights_left_percent"]))
    return min(runs, key=lambda name: float(runs[name]["validation_error_percent"]))


def rows_of(session: Session, net: str, names: list[str]) -> list[Row]:
    """The dense net, and the chosen candidate."""
    dense, title = session.dense(net), NETS[net].name
    print(f"{title}, {DENSE}: {_line(dense)}", flush=True)
    rows: list[Row] = [
        {
            "method": f"{title}, {DENSE}",
            "test_error_percent": round(dense["test_error_percent"], 2),
            "weights_left_percent": 100.0,
            "seconds": round(dense["seconds"], 1),
        }
    ]
    runs = {}
    for name in names:
        try:
            run = session.candidate(net, name)
        except Exception:
            traceback.print_exc(file=sys.stdout)
            continue
        print(f"{title}, {name}: {'no time left' if run is None else _line(run)}", flush=True)
        if run is not None:
            runs[name] = run
    if not runs:
        return rows
    best, price = chosen(dense, runs), session.cost(net)
    keys = ("weights_left_percent", "clusters", "mean_cluster_length", "bytes", "seconds")
    figures: Row = {
        "method": f"{title}, Turbo-VBI ({best})",
        "test_error_percent": round(session.test_error(net, best), 2),
        "structure": runs[best]["structure"],
        **{key: round(runs[best][key], 3) for key in keys},
        "step_cost_ratio": round(price["step_cost_ratio"], 3),
        "module_b_percent": round(price["module_b_percent"], 3),
    }
    return [*rows, figures]


def _line(run: Row) -> str:
    keys = [
        *("validation_error_percent", "before_fine_tuning_percent", "posterior_mean_percent"),
        *("weights_left_percent", "bytes", "seconds", "epoch_seconds", "peak_megabytes"),
    ]
    parts = [f"{key} {run[key]:.2f}" for key in keys if run.get(key) is not None]
    return ", ".join([*parts, str(run.get("structure", ""))])


def protocol(plan: Plan, source: str) -> str:
    """What was done, for the table."""
    return (
        f"CIFAR-10 ({'the JPEG copy' if source == 'JPEG' else 'the ' + source + ' version'} of its "
        f"images), 45,000 training images, 5,000 for every choice; {plan.pretrain} epochs of plain "
        f"training (SGD, one cycle), then {plan.epochs} of Turbo-VBI from its result, then the cut "
        f"network {plan.fine_tune} epochs more (the best on the 5,000 images); batch {plan.batch}, "
        "random crops and mirror images, bfloat16 arithmetic in the nets; one seed; of several "
        f"settings the smallest network within {ALLOWANCE:g} points of the dense net on the 5,000; "
        "cost of a step as a multiple of plain fused Adam's in the same precision, measured in "
        "alternation in the same run; seconds of Turbo-VBI without the plain training"
    )


def kept_rows(path: Path, told: str, nets: list[str]) -> list[Row]:
    """Rows of other nets in an earlier table of the same protocol."""
    if not path.exists():
        return []
    earlier = json.loads(path.read_text(encoding="utf-8"))
    if earlier["protocol"] != told:
        return []
    return [row for row in earlier["rows"] if row["method"].partition(",")[0] not in nets]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", nargs="+", choices=list(NETS), default=list(NETS))
    parser.add_argument("--candidate", nargs="+", help="names; default: all of the net")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--pretrain", type=int, default=25, help="epochs of plain training")
    parser.add_argument("--epochs", type=int, default=30, help="epochs of Turbo-VBI")
    parser.add_argument("--fine-tune", type=int, default=3, help="epochs of the cut network")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1e6, help="start no run that ends later")
    parser.add_argument("--tiny", action="store_true", help="narrow nets, 400 images, 2 epochs")
    parser.add_argument("--out", type=Path, default=FOLDER / "results", help="folder of the JSON")
    parser.add_argument("--cache", type=Path, default=FOLDER / "cache" / "cifar10")
    return parser.parse_args()


def main() -> None:
    """All nets that are asked for, one after the other."""
    given = arguments()
    deadline, device = time.monotonic() + 60.0 * given.minutes, torch.device(given.device)
    plan = Plan(given.pretrain, given.epochs, given.fine_tune, given.batch, given.seed)
    if given.tiny:
        plan = Plan(2, 2, 1, 50, given.seed, points=400)
    splits = images(plan, device)
    print(f"images ready, {deadline - time.monotonic():.0f} s left", flush=True)
    told, path = protocol(plan, splits.source), given.out / "cifar10.json"
    rows = kept_rows(path, told, [NETS[net].name for net in given.net])
    for net in given.net:
        if time.monotonic() > deadline:
            print(f"{NETS[net].name}: no time left")
            break
        wanted = replace(plan, width=NETS[net].tiny_width) if given.tiny else plan
        session = Session(wanted, splits, given.out / "cifar10", given.cache, deadline)
        known = NETS[net].candidates
        names = [name for name in known if not given.candidate or name in given.candidate]
        rows += rows_of(session, net, names)
        outcome = {
            "case": "VGG-16 and ResNet-20 on CIFAR-10",
            "protocol": told,
            "device": device_name(device),
            "readme": False,
            "rows": rows,
        }
        write_json(path, outcome)
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
