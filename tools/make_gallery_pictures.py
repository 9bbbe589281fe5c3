"""Draws the gallery's pictures: every model and guide is trained shortly and shows what came out.

Run `python tools/make_gallery_pictures.py [NAME ...]` to draw some or all of them; on one core
that takes about half a minute each, and some minutes for VGG-16 and ResNet-20. Pictures and their
captions, figures included, go to `docs/images/gallery/`, from where `tools/make_tables.py` puts
them on the gallery page. MNIST and CIFAR-10 have to be on this machine; everything else comes with
scikit-learn or is made by a seed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_turbovbi as ptv
from pyro_turbovbi import data, engines, likelihoods, priors, supports

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "images" / "gallery"
CAPTIONS = PICTURES / "captions.json"
DPI = 100
BLUE, ORANGE, GREY, DARK = "#0072B2", "#D55E00", "#BBBBBB", "#0B1F3A"


class Picture(NamedTuple):
    """A figure and the line below it."""

    figure: Figure
    caption: str


def load(name: str) -> ModuleType:
    """A file of the galleries as a module.

    Args:
        name: Its name without folder and suffix.
    """
    folder = "models" if (ROOT / "models" / f"{name}.py").exists() else "guides"
    spec = importlib.util.spec_from_file_location(name, ROOT / folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def trained(
    bnn: ptv.BayesianNet, points: Any, epochs: int, batch_size: int = 128, **settings: Any
) -> ptv.Fit:
    """A fit by Turbo-VBI with some settings, seed 0."""
    engine = settings.pop("engine", None) or engines.Turbo(**settings)
    return ptv.fit(
        bnn, points, engine=engine, epochs=epochs, batch_size=batch_size, seed=0, progress=False
    )


# Figures


def panels(columns: int, *, width: float = 7.6, height: float = 2.6, rows: int = 1) -> Any:
    """A white figure, which reads on a dark page too, and its axes [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False)


def style(axes: Axes, title: str, xlabel: str = "", ylabel: str = "") -> None:
    """Texts in one size, and no frame on the open sides."""
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(xlabel, fontsize=8)
    axes.set_ylabel(ylabel, fontsize=8)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def matrix(axes: Axes, values: Tensor, title: str) -> None:
    """A matrix of numbers in [0, 1], white to dark blue."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("support", ["#FFFFFF", "#56B4E9", DARK])
    numbers = values.detach().flatten(1).float().numpy()
    axes.imshow(numbers, colours, aspect="auto", interpolation="nearest", vmin=0, vmax=1)
    axes.set_title(title, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])


def support_figure(probs: Mapping[str, Tensor], columns: int, height: float) -> Figure:
    """P(s = 1) of several weights, each stretched to the same size."""
    figure, axes = panels(columns, rows=ceil(len(probs) / columns), height=height)
    for place, (name, values) in zip(axes.flat, probs.items(), strict=False):
        left = float((values > 0.5).float().mean())
        shape = "x".join(map(str, values.flatten(1).shape))
        matrix(place, values, f"{name}\n{shape}, {left:.1%} left")
    for place in axes.flat[len(probs) :]:
        place.set_axis_off()
    return figure  # type: ignore[no-any-return]


def units_figure(net: nn.Module, small: nn.Module) -> Figure:
    """Outputs of every layer before and after the cut."""
    figure, [[axes]] = panels(1, height=2.8)
    before, after = ([w.shape[0] for w in weights(module)] for module in (net, small))
    places = range(len(before))
    axes.bar(places, before, width=0.8, color=GREY, label="before")
    axes.bar(places, after, width=0.8, color=BLUE, label="after the cut")
    style(axes, "", "layer", "outputs")
    axes.legend(fontsize=8, frameon=False)
    return figure  # type: ignore[no-any-return]


def weights(module: nn.Module) -> list[Tensor]:
    """Weights of linear and convolution layers, in order."""
    layers = (nn.Linear, nn.Conv2d)
    return [layer.weight for layer in module.modules() if isinstance(layer, layers)]


# Models


def digits_mlp() -> Picture:
    """The supports of all three layers."""
    train, _, test = data.digits()
    fit = trained(load("digits_mlp").build(), train, epochs=60)
    figure = support_figure(fit.support_probs(), columns=3, height=2.8)
    return Picture(figure, _classified(fit, train, test, "P(s = 1) of every weight"))


def digits_vit() -> Picture:
    """The supports of all layers, block by block."""
    train, _, test = data.digits()
    fit = trained(load("digits_vit").build(), train, epochs=45, batch_size=64, init_scale=0.1)
    probs = dict(sorted(fit.support_probs().items(), key=lambda item: "block" not in item[0]))
    names = {re.sub(r"blocks\.|attention\.|\.weight", "", name): p for name, p in probs.items()}
    figure = support_figure(names, columns=6, height=4.0)
    return Picture(figure, _classified(fit, train, test, "P(s = 1) of every weight"))


def lenet_300_100() -> Picture:
    """Which pixels the first layer reads."""
    train, test = _some_mnist(flat=True, points=6000)
    fit = trained(load("lenet_300_100").build(), train, epochs=20)
    probs = fit.support_probs()
    figure, [axes] = panels(4, height=2.2)
    image = train[0].mean(0).unflatten(0, (28, 28))
    matrix(axes[0], image, "mean training image")
    read = (probs["0.weight"] > 0.5).sum(0).unflatten(0, (28, 28))
    matrix(axes[1], read / read.max(), f"first layer: weights\na pixel, 0 .. {int(read.max())}")
    for place, name in zip(axes[2:], ("2.weight", "4.weight"), strict=True):
        matrix(place, probs[name], f"{name}\nP(s = 1)")
    for place in axes[:2]:
        place.set_aspect("equal")
    text = f"Trained on {len(train[0]):,} images of MNIST"
    return Picture(figure, _classified(fit, train, test, text))


def lenet_5() -> Picture:
    """The kernels of the first layer, and what is left of every layer."""
    train, test = _some_mnist(flat=False, points=1500)
    fit = trained(load("lenet_5").build(), train, epochs=12)
    mean = fit.posterior.mean()["0.weight"] * fit.masks()["0.weight"]
    tiles = F.pad(mean[:, 0], (1, 1, 1, 1), value=float("nan"))
    figure, [axes] = panels(2, height=2.6)
    sheet = torch.cat([torch.cat(list(row), 1) for row in tiles.chunk(4)])
    size = float(mean.abs().max())
    axes[0].imshow(sheet.numpy(), cmap="RdBu_r", vmin=-size, vmax=size)
    axes[0].set_title("kernels of the first layer; white: no weight", fontsize=9)
    axes[0].set_facecolor(GREY)
    axes[0].set_xticks([])
    axes[0].set_yticks([])
    left = [100 * float(mask.float().mean()) for mask in fit.masks().values()]
    axes[1].bar(["conv 1", "conv 2", "linear 1", "linear 2"], left, color=BLUE)
    style(axes[1], "weights left, %")
    text = f"Trained on {len(train[0]):,} images of MNIST"
    return Picture(figure, _classified(fit, train, test, text))


def resnet_20() -> Picture:
    """Units before and after."""
    return _narrow("resnet_20", width=0.5, plain=8, epochs=12)


def vgg_16() -> Picture:
    """Units before and after."""
    return _narrow("vgg_16", width=0.25, plain=5, epochs=10)


def _narrow(name: str, width: float, plain: int, epochs: int) -> Picture:
    """A narrow net on some images of CIFAR-10: a picture, no benchmark."""
    began = time.process_time()
    splits = data.cifar10()
    x, y = splits.train.x[:5000], splits.train.y[:5000]
    bnn = load(name).build(width=width)
    train_plainly(bnn.net, x, y, plain)
    views = data.TransformedTensors(x, y, transform=data.augment)
    fit = trained(bnn, views, epochs, batch_size=64, kl_weight=0.03, init_scale=0.1, lr=2e-3)
    small = fit.compress((x, y))
    minutes = (time.process_time() - began) / 60
    start = (
        f"At {width:g} of its width, on {len(x):,} images of CIFAR-10 ({splits.source} files): "
        f"{plain} epochs without a prior, then {epochs} of Turbo-VBI, {minutes:.0f} minutes of one "
        "core in all"
    )
    test = (splits.test.x[:2000], splits.test.y[:2000])
    figure = units_figure(fit.bnn.net, small.module)
    return Picture(figure, _classified(fit, (x, y), test, start, small=small))


def train_plainly(net: nn.Module, x: Tensor, y: Tensor, epochs: int, size: int = 64) -> None:
    """Gives a net weights to start from: Adam, one cycle of its rate, random views.

    Args:
        net: The net; it is changed.
        x: Images, [points, channels, height, width].
        y: Labels, [points].
        epochs: Passes over the images.
        size: Images a step.
    """
    optimizer = torch.optim.Adam(net.parameters())
    steps = epochs * ceil(len(x) / size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(size):
            optimizer.zero_grad()
            F.cross_entropy(net(data.augment(x[rows])), y[rows]).backward()
            optimizer.step()
            schedule.step()


def char_gpt() -> Picture:
    """The last verse, coloured by the probability that the cut network gives to each character."""
    module = load("char_gpt")
    train, _, _ = module.rhymes()
    fit = trained(module.build(), train, epochs=100, batch_size=16, init_scale=0.1)
    small = fit.compress(train)
    text = module.TEXT[module.TEXT.rindex("On the ") :]
    probs = _next_probs(module, small.module, text)
    figure, [[axes]] = panels(1, height=3.4)
    lines, start = text.rstrip().split("\n"), 0
    wide = max(map(len, lines))
    sheet = torch.zeros(len(lines), wide)
    for row, line in enumerate(lines):
        sheet[row, : len(line)] = probs[start : start + len(line)]
        for column, character in enumerate(line):
            colour = "white" if sheet[row, column] > 0.6 else "black"
            font = {"ha": "center", "va": "center", "fontsize": 8, "family": "monospace"}
            axes.text(column, row, character, color=colour, **font)
        start += len(line) + 1
    matrix(axes, sheet, "probability of each character given those before, white 0, dark 1")
    caption = f"{_left(small)}; {float((probs > 0.5).float().mean()):.0%} of the last verse, "
    return Picture(figure, caption + "which was kept for the test, expected at more than one half.")


@torch.no_grad()
def _next_probs(module: ModuleType, net: nn.Module, text: str) -> Tensor:
    """Probability of every character of a text, the first one given a line break."""
    numbers = module.encode("\n" + text)
    probs = []
    for place in range(1, len(numbers)):
        seen = numbers[max(0, place - module.LENGTH) : place]
        probs.append(net(seen[None])[0, -1].softmax(-1)[numbers[place]])
    return torch.stack(probs)


def structured_recovery() -> Picture:
    """True weights, and those that are found with and without a chain."""
    module = load("structured_recovery")
    problem = data.recovery(150, seed=0)
    figure, axes = panels(1, rows=3, height=3.6)
    truth = problem.weight.flatten()
    found = {
        name: trained(
            module.build(support),
            (problem.x, problem.y),
            epochs=module.ITERATIONS,
            engine=module.ENGINE,
        )
        for name, support in {"chain": None, "independent": supports.Independent(0.05)}.items()
    }
    shown = {"truth": truth} | {n: fit.posterior.mean()["weight"][0] for n, fit in found.items()}
    for place, (name, values) in zip(axes.flat, shown.items(), strict=True):
        place.vlines(range(len(values)), 0, values.numpy(), color=BLUE, linewidth=0.8)
        style(place, "", "" if name != "independent" else "weight", name)
        place.set_xlim(0, len(values))
    f1 = {n: _f1(fit.masks()["weight"].flatten(), problem.support) for n, fit in found.items()}
    scores = ", ".join(f"{name} {score:.2f}" for name, score in f1.items())
    return Picture(figure, f"1,000 weights from 150 measurements. F1 of the support: {scores}.")


def gated_recovery() -> Picture:
    """The true support, and those that are found with and without gates."""
    module = load("gated_recovery")
    problem = data.gated_recovery(40, seed=0)
    shown, scores = {"truth": problem.support}, []
    for name, support in {"gated": module.GATED, "independent": supports.Independent(0.05)}.items():
        fit = trained(
            module.build(support),
            (problem.x, problem.y),
            epochs=module.ITERATIONS,
            engine=module.ENGINE,
        )
        shown[name] = fit.masks()["weight"]
        scores.append(f"{name} {_f1(shown[name].any(0), problem.relevant):.2f}")
    figure, axes = panels(1, rows=3, height=3.6)
    for place, (name, mask) in zip(axes.flat, shown.items(), strict=True):
        matrix(place, mask, "")
        place.set_ylabel(name, fontsize=8)
    axes.flat[-1].set_xlabel("input; rows: outputs", fontsize=8)
    text = f"200 inputs from 40 measurements. F1 of the inputs that matter: {', '.join(scores)}."
    return Picture(figure, text)


def _f1(found: Tensor, true: Tensor) -> float:
    from pyro_turbovbi.diagnostics.recovery import f1_score

    return f1_score(found, true)


def uci_mlp() -> Picture:
    """Predictions and their uncertainty on scikit-learn's diabetes."""
    return _regression(load("uci_mlp").build(features=10))


def heteroscedastic_mlp() -> Picture:
    """The same, with noise that depends on the input."""
    return _regression(load("heteroscedastic_mlp").build())


def _regression(bnn: ptv.BayesianNet) -> Picture:
    """Test points in the order of their predictions, with two standard deviations around."""
    train, _, test = load("heteroscedastic_mlp").diabetes()
    fit = trained(bnn, train, epochs=100, batch_size=32)
    mean, scale = _moments(fit, test.x)
    figure, [[axes]] = panels(1, height=2.8)
    order, places = mean.argsort(), torch.arange(len(mean))
    low, high = (mean - 2 * scale)[order], (mean + 2 * scale)[order]
    axes.vlines(places, low, high, color="#56B4E9", linewidth=3, label="2 standard deviations")
    axes.plot(places, mean[order], color=BLUE, label="prediction")
    axes.scatter(places, test.y[order], s=9, color=ORANGE, zorder=3, label="measured")
    style(axes, "", "test point, in the order of predictions", "target, standardised")
    axes.legend(fontsize=8, frameon=False, loc="upper left", ncols=3)
    metrics, small = fit.evaluate(test), fit.compress(train)
    inside = float(((test.y - mean).abs() < 2 * scale).float().mean())
    constant = float((test.y - train.y.mean()).square().mean().sqrt())
    return Picture(
        figure,
        f"scikit-learn's diabetes. {_left(small)}; test RMSE {metrics.rmse:.2f} standard "
        f"deviations (a constant's: {constant:.2f}), {inside:.0%} of the points within the bars.",
    )


def _moments(fit: ptv.Fit, x: Tensor, num_samples: int = 64) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the posterior predictive, [points]."""
    outputs = fit.predict(x, num_samples=num_samples).outputs
    laws = [fit.bnn.likelihood.distribution(output) for output in outputs]
    means = torch.stack([law.mean.flatten(1)[:, 0] for law in laws])
    variances = torch.stack([law.variance.flatten(1)[:, 0] for law in laws])
    total = (variances.mean(0) + means.var(0, unbiased=False)).sqrt()
    return means.mean(0).detach(), total.detach()


def multi_task() -> Picture:
    """Both tasks, and which pixels the trunk reads."""
    module = load("multi_task")
    points, test = module.halves()
    small = module.cut(module.train(points), points.x)
    wrong, rmse = module.errors(small.module, test)
    with torch.no_grad():
        output = small.module(test.x)
    figure, [axes] = panels(3, height=2.7)
    halves = torch.cat(
        [torch.cat(list(row.unflatten(1, (4, 8))), 1) for row in test.x[:9].split(3)]
    )
    matrix(axes[0], halves, "nine upper halves,\nsaid to be " + _said(output[:9, :10].argmax(1)))
    axes[0].hlines([3.5, 7.5], -0.5, 23.5, color=GREY, linewidth=0.6)
    axes[0].vlines([7.5, 15.5], -0.5, 11.5, color=GREY, linewidth=0.6)
    axes[1].scatter(test.ink, output[:, 10], s=6, color=BLUE)
    axes[1].plot([-2, 2], [-2, 2], color=GREY, linewidth=1)
    style(axes[1], "ink of the lower half", "true", "predicted")
    share = torch.zeros(10, 10)
    for true, said in zip(test.digit, output[:, :10].argmax(1), strict=True):
        share[true, said] += 1
    matrix(axes[2], share / share.sum(1, keepdim=True), "digit: true (down)\nand said (across)")
    axes[2].set_xticks(range(10))
    axes[2].set_yticks(range(10))
    axes[2].tick_params(labelsize=7)
    return Picture(
        figure,
        f"{_left(small)}; {wrong:.0%} of the test digits wrong, told from their upper halves "
        f"and with 400 labels; ink off by {rmse:.2f} standard deviations (a constant: 1).",
    )


def _said(digits: Tensor) -> str:
    """Nine digits in groups of a row."""
    return " ".join("".join(map(str, row)) for row in digits.unflatten(0, (3, 3)).tolist())


def _some_mnist(*, flat: bool, points: int) -> tuple[Any, Any]:
    train, _, test = data.mnist(flat=flat)
    return (train.x[:points], train.y[:points]), (test.x[:2000], test.y[:2000])


def _left(small: ptv.Compressed) -> str:
    return f"{small.report.kept:,} of {small.report.total:,} weights left"


def _classified(
    fit: ptv.Fit, train: Any, test: Any, start: str, *, small: ptv.Compressed | None = None
) -> str:
    small = small or fit.compress(train)
    with torch.no_grad():
        wrong = float((small.module(test[0]).argmax(-1) != test[1]).float().mean())
    return f"{start}. {_left(small)}; the cut network errs on {wrong:.1%} of the test images."


# Guides

#: The prior under which each guide is shown.
GUIDES: dict[str, priors.Prior] = {
    "enumerated": priors.ThreeLayer(collapse="support"),
    "low_rank_normal": priors.Normal(scale=1.0),
    "mean_field_normal": priors.Normal(scale=1.0),
    "normalizing_flow": priors.Normal(scale=1.0),
    "relaxed": priors.ThreeLayer(),
    "structured_horseshoe": priors.Horseshoe(global_scale=0.3),
    "turbo": priors.ThreeLayer(),
}


def guide(name: str) -> Picture:
    """Predictions of a small net with a gap in its data.

    Args:
        name: The guide.
    """
    generator = torch.Generator().manual_seed(0)
    sides = torch.rand(60, generator=generator)
    x = torch.where(torch.arange(60) < 30, sides - 1.6, sides + 0.6)[:, None]
    y = torch.sin(3 * x[:, 0]) + 0.15 * torch.randn(60, generator=generator)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1))
    noise = likelihoods.Gaussian(scale=0.15, learn=False)
    bnn = ptv.lift(net, likelihood=noise, prior=GUIDES[name])
    engine = engines.SVI(guide=load(name).build, lr=0.02)
    fit = trained(bnn, (x, y), epochs=500, batch_size=60, engine=engine)
    line = torch.linspace(-2.4, 2.4, 200)[:, None]
    mean, scale = _moments(fit, line)
    figure, [[axes]] = panels(1, width=4.6, height=2.4)
    for times in (2, 1):
        band = (mean - times * scale, mean + times * scale)
        axes.fill_between(line[:, 0], *band, color="#56B4E9", alpha=0.35, linewidth=0)
    axes.plot(line[:, 0], mean, color=BLUE)
    axes.scatter(x[:, 0], y, s=8, color=ORANGE, zorder=3)
    axes.set_ylim(-3, 3)
    style(axes, "")
    loss = -sum(fit.history.elbo[-50:]) / 50
    prior = type(GUIDES[name]).__name__
    text = f"A net of 20 units under `priors.{prior}`: one and two standard deviations of the "
    return Picture(figure, f"{text}predictive. Loss at the end: {loss:.1f} nats.")


MODELS: dict[str, Callable[[], Picture]] = {
    draw.__name__: draw
    for draw in (
        char_gpt, digits_mlp, digits_vit, gated_recovery, heteroscedastic_mlp, lenet_300_100,
        lenet_5, multi_task, resnet_20, structured_recovery, uci_mlp, vgg_16,
    )
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Draws pictures and writes their captions.

    Args:
        arguments: Command line; the process's own when None.
    """
    known = [*MODELS, *GUIDES]
    parser = argparse.ArgumentParser(description="Draw the gallery's pictures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}")
    names = parser.parse_args(arguments).names or known
    torch.set_num_threads(1)
    for name in names:
        torch.manual_seed(0)
        picture = MODELS[name]() if name in MODELS else guide(name)
        picture.figure.savefig(PICTURES / f"{name}.png", metadata={"Software": None})
        captions = json.loads(CAPTIONS.read_text("utf-8")) if CAPTIONS.exists() else {}
        captions[name] = picture.caption
        text = json.dumps(dict(sorted(captions.items())), indent=1, ensure_ascii=False)
        CAPTIONS.write_text(text + "\n", encoding="utf-8")
        print(f"{name}: {picture.caption}", flush=True)


if __name__ == "__main__":
    main()
