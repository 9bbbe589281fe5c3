"""The sections of a page, each made of what is known of its subject."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from pyro_turbovbi.compression.regularity import regularity
from pyro_turbovbi.diagnostics.calibration_plots import pit_histogram, reliability_diagram
from pyro_turbovbi.diagnostics.cost_plots import (
    cost_bars,
    cost_comparison,
    error_against_bytes,
)
from pyro_turbovbi.diagnostics.training_plots import training_history
from pyro_turbovbi.diagnostics.weight_plots import weight_draws, weight_intervals
from pyro_turbovbi.report import words
from pyro_turbovbi.report.environment import environment
from pyro_turbovbi.report.figures import picture, plain, support
from pyro_turbovbi.report.markup import Markup, escaped, joined, table, tag
from pyro_turbovbi.report.subject import Subject

_OPEN_LAYERS = 6
"""So many layers are shown at once; those after them can be opened."""
_UNKNOWN = "-"


def head(subject: Subject) -> Markup:
    """Name, how the fit came about, the summary in words, and four numbers."""
    how = subject.fit.training
    by = (
        f"Trained by {subject.fit.engine_name} for {how.epochs:,} epochs on {how.num_data:,} "
        f"points, in {subject.fit.seconds:,.0f} seconds."
    )
    sentences = (
        words.weights_left(subject.kept, subject.total),
        words.cost(subject.small),
        words.error(subject.found),
        words.uncertainty(subject.found),
    )
    return joined(
        tag("h1", f"{subject.name}: what is left of the network"),
        tag("p", by, class_="by"),
        _tiles(subject),
        tag("ul", *(tag("li", _code(sentence)) for sentence in sentences), class_="summary"),
    )


def size_and_speed(subject: Subject) -> Markup:
    """Costs before and after the cut."""
    if subject.small is None:
        return tag("p", _code(words.cost(None)))
    small = subject.small
    before, after = small.before, small.after
    rows = [
        ("weights left", f"{subject.total:,}", f"{subject.kept:,}"),
        ("units of the layers", *small.units) if small.units else None,
        ("parameters", f"{before.parameters:,}", f"{after.parameters:,}"),
        ("operations for one input", _count(before.flops), _count(after.flops)),
        ("bytes", f"{before.bytes:,}", f"{after.bytes:,}"),
        (f"time of {small.batch} inputs", _time(before.latency), _time(after.latency)),
        *_error_rows(subject),
    ]
    coding = (
        "The file holds every value exactly."
        if small.coding == "plain"
        else "The weights in the file are rounded as far as validation data tolerated."
    )
    note = tag("p", f"{coding} Times are medians, measured on one machine.", class_="note")
    shown = [row for row in rows if row is not None and row[1:] != (_UNKNOWN, _UNKNOWN)]
    costs = {
        name: (float(first), float(second))
        for name, first, second in (
            ("parameters", before.parameters, after.parameters),
            ("operations", before.flops, after.flops),
            ("bytes", before.bytes, after.bytes),
            ("time (ms)", _ms(before.latency), _ms(after.latency)),
        )
        if first and second is not None
    }
    alt = "Bars, percent of the original: " + "; ".join(
        f"{name} {100 * second / first:.1f}" for name, (first, second) in costs.items()
    )
    listed = table(("", "original", "small"), shown, caption="The network before and after the cut")
    bars = cost_bars(costs)
    drawn = picture(bars, alt=alt, caption="Shorter is better; the dashed line is 100 %.")
    return _beside(joined(listed, note), drawn)


def layers(subject: Subject) -> Markup:
    """Which weights are left, as a table and as pictures."""
    masks = subject.masks
    rows = []
    for name, mask in masks.items():
        counts = regularity(mask)
        rows.append(
            (
                name,
                "x".join(map(str, mask.shape)),
                words.percent(counts.density),
                f"{counts.clusters:,}",
                f"{counts.mean_cluster_length:.1f}",
            )
        )
    headers = ("layer", "shape", "left", "runs", "mean length")
    text = (
        "Each point is a weight: a row is a unit, a column an input of it. The stronger the "
        "colour, the more probable it is that the weight is needed. Weights that lie together in "
        "rows and columns make a network that is smaller and faster, not only emptier."
    )
    during = (
        " Pictures from within the training can be empty at first: which weights are needed shows "
        "only as the prior grows sharper."
        if subject.stages
        else " No picture from within the training was kept."
    )
    blocks = [_layer(subject, name) for name in masks]
    more = blocks[_OPEN_LAYERS:]
    hidden = tag("details", tag("summary", f"{len(more)} further layers"), *more) if more else ""
    return joined(
        table(headers, rows, caption="Weights left after training, in runs along the rows"),
        tag("p", text + during),
        *blocks[:_OPEN_LAYERS],
        hidden,
    )


def training(subject: Subject) -> Markup:
    """ELBO and sparsity over time."""
    history = subject.fit.history
    if not history:
        return tag("p", "The fit has no history of its epochs.")
    bound = subject.fit.elbo_kind
    label = "ELBO (nats)" if bound != "log joint" else "log joint (nats)"
    last = history[-1]
    sizes = {plain(name): site.shape.numel() for name, site in subject.fit.bnn.sites.items()}
    records = [
        replace(record, density={plain(name): share for name, share in record.density.items()})
        for record in history
    ]
    figure = training_history(records, sizes, elbo_label=label)
    alt = (
        f"Two curves over {len(history)} epochs: {label} from {history[0].elbo:,.4g} to "
        f"{last.elbo:,.4g}, and the share of weights left, at last "
        f"{words.percent(subject.kept / subject.total)}"
    )
    caption = (
        "Above: how well model and data agree, higher is better (while the training sets out from "
        "a soft start, the value can fall as well). Below: how many weights are still in use."
    )
    return picture(figure, alt=alt, caption=caption, height=5.4)


def confidence(subject: Subject) -> Markup:
    """Reliability diagram or PIT histogram, and the scores."""
    found = subject.found
    sentence = tag("p", words.uncertainty(found))
    if found is None:
        return sentence
    metrics = found.metrics
    scores = [
        ("negative log-likelihood (nats a point)", metrics.nll),
        ("expected calibration error", metrics.ece),
        ("Brier score", metrics.brier),
        ("root mean square error", metrics.rmse),
    ]
    rows = [(name, f"{value:.4f}") for name, value in scores if value is not None]
    caption = f"Scores on {metrics.num_points:,} test points; lower is better"
    scored = table(("", "value"), rows, caption=caption)
    if found.reliability is not None:
        drawn = picture(
            reliability_diagram({plain(subject.name): found.reliability}),
            alt=f"Accuracy against confidence; mean distance from the diagonal {metrics.ece:.3f}",
            caption="On the dashed line the network is right as often as it says; below it, it is "
            "too sure of itself. Bars are 95 % intervals.",
            height=5.2,
        )
    elif found.pit is not None:
        drawn = picture(
            pit_histogram({plain(subject.name): found.pit}),
            alt="Histogram of where the targets fall in their predictive distributions",
            caption="Level within the grey band: honest. High edges: too sure of itself. "
            "A hump: too cautious.",
        )
    else:
        drawn = Markup()
    return joined(sentence, _beside(drawn, scored))


def weights(subject: Subject) -> Markup:
    """Posterior of the largest weights."""
    draws = weight_draws(subject.fit, seed=subject.seed)
    spread = torch.stack([values.double().std() for values in draws.values()])
    if not bool((spread > 0).any()):
        return tag("p", "The fit is a point estimate: it gives its weights no uncertainty.")
    certain = sum(_one_sign(values) for values in draws.values())
    alt = "Intervals of the largest weights: " + "; ".join(
        f"{name} {values.mean():.2f} +- {values.std():.2f}" for name, values in draws.items()
    )
    caption = (
        f"The {len(draws)} weights of largest magnitude. Dot: median; thick: 50 %; thin: 95 % of "
        f"the posterior. For {certain} of them it is certain (97.5 %) whether they are positive or "
        "negative."
    )
    figure = weight_intervals({plain(name): values for name, values in draws.items()})
    return picture(figure, alt=alt, caption=caption)


def other_runs(subject: Subject) -> Markup:
    """The fit beside others: error against size, costs, the table."""
    if subject.comparison is None:
        text = "Without test data the fits cannot be compared." if subject.others else ""
        return tag("p", text) if text else Markup()
    comparison = subject.comparison
    compared = comparison.table()
    notes = tag("div", *(tag("p", note) for note in compared.notes), class_="note")
    text = (
        "All networks of this section were cut in the same way, with exact values. Those that no "
        "other network beats in both error and size are filled."
    )
    return joined(
        tag("p", text),
        _beside(*_comparison_pictures(subject)),
        table(compared.headers, compared.cells, caption="All fits on the test data", notes=notes),
    )


def recipe(subject: Subject) -> Markup:
    """How it was made, to do it again."""
    how = subject.fit.training
    facts = {
        "engine": subject.fit.engine_name,
        "epochs": f"{how.epochs:,}",
        "points": f"{how.num_data:,}",
        "batch size": f"{how.batch_size:,}",
        "seed": how.seed,
        "weight of the KL term": f"{how.kl_weight:g}",
        "final ELBO": _elbo(subject),
        "likelihood": type(subject.fit.bnn.likelihood).__name__,
        **{f"prior of {name}": site.prior for name, site in subject.fit.bnn.sites.items()},
    }
    text = (
        tag("p", "This fit was not made from a recipe file.")
        if subject.recipe is None
        else tag("pre", tag("code", subject.recipe), tabindex=0, aria_label="Recipe")
    )
    return joined(text, _facts(facts, "The training"), _facts(environment(), "Report written with"))


SECTIONS: Mapping[str, Callable[[Subject], Markup]] = {
    "Size and speed": size_and_speed,
    "Layers": layers,
    "Training": training,
    "Confidence": confidence,
    "Weights": weights,
    "Other runs": other_runs,
    "Recipe and environment": recipe,
}
"""The sections by their titles, in order; an empty one is left out."""


def _tiles(subject: Subject) -> Markup:
    tiles = [("weights left", words.percent(subject.kept / subject.total), f"of {subject.total:,}")]
    if subject.small is not None:
        before, after = subject.small.before, subject.small.after
        smaller = f"{words.times(before.bytes / after.bytes)}x"
        tiles.append(("file smaller by", smaller, f"{words.size(after.bytes)}"))
        if before.latency and after.latency:
            faster = f"{words.times(before.latency / after.latency)}x"
            tiles.append(("speed", faster, f"{words.milliseconds(after.latency)} a batch"))
    if subject.found is not None:
        trained, small = _errors(subject)
        where = f"on {subject.found.metrics.num_points:,} test points"
        kind = "error" if subject.found.classes else "RMSE"
        tiles.append((f"{kind}, trained", trained, where))
        if small is not None:
            tiles.append((f"{kind}, small", small, "after the cut"))
    return tag(
        "dl",
        *(tag("div", tag("dt", n), tag("dd", value, tag("small", s))) for n, value, s in tiles),
        class_="tiles",
    )


def _errors(subject: Subject) -> tuple[str, str | None]:
    assert subject.found is not None, "there are errors on test data alone"
    found = subject.found
    _, trained = found.metrics.primary
    show = words.percent if found.classes else "{:.3g}".format
    return show(trained), None if found.small_error is None else show(found.small_error)


def _error_rows(subject: Subject) -> list[tuple[str, str, str]]:
    if subject.found is None:
        return []
    trained, small = _errors(subject)
    kind = "error" if subject.found.classes else "RMSE"
    return [(f"{kind} on test data", trained, small or _UNKNOWN)]


def _layer(subject: Subject, name: str) -> Markup:
    """A layer's support at every stage that is known."""
    after = subject.fit.support_probs()[name]
    trained = after if bool((after < 1).any()) else subject.masks[name]
    stages: dict[str, Tensor] = {"before training": torch.ones_like(after)}
    stages |= {stage: probs[name] for stage, probs in subject.stages.items() if name in probs}
    stages["after training"] = trained
    if subject.small is not None and name in subject.small.masks:
        stages["after cutting"] = subject.small.masks[name]
    pictures = (support(values, name=name, label=label) for label, values in stages.items())
    return joined(tag("h3", name), tag("div", *pictures, class_="layers"))


def _comparison_pictures(subject: Subject) -> list[Markup]:
    comparison = subject.comparison
    assert comparison is not None, "there is something to compare"
    rows = [row for row in comparison.rows if row.bytes is not None]
    if not rows:
        return []
    classes = rows[0].error is not None
    points = {
        row.name: (float(row.bytes or 0), (100 if classes else 1) * (row.pruned or 0.0))
        for row in rows
    }
    front = error_against_bytes(
        {plain(name): point for name, point in points.items()},
        error_label="error (%)" if classes else "RMSE",
    )
    placed = "; ".join(
        f"{fit} {size:,.0f} bytes, {error:.3g}" for fit, (size, error) in points.items()
    )
    costs: dict[str, dict[str, float]] = {
        "bytes": {plain(row.name): float(row.bytes or 0) for row in rows},
        "time of one batch (ms)": {
            plain(row.name): 1000 * row.latency for row in rows if row.latency is not None
        },
    }
    costs = {name: values for name, values in costs.items() if values}
    alt = "; ".join(
        f"{fit} {value:,.4g} {name}" for name, fits in costs.items() for fit, value in fits.items()
    )
    return [
        picture(
            front,
            alt=f"Error of the small network against bytes of its file: {placed}",
            caption="Lower left is better. Errors are those of the small networks.",
            height=3.9,
        ),
        picture(cost_comparison(costs), alt=f"Bars: {alt}", caption="Shorter is better."),
    ]


def _beside(*pieces: Markup) -> Markup:
    """Pieces next to each other where there is room."""
    return tag("div", *(tag("div", piece) for piece in pieces if piece), class_="charts")


def _one_sign(draws: Tensor) -> bool:
    low, high = draws.double().quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    return bool(low > 0 or high < 0)


def _facts(values: Mapping[str, object], caption: str) -> Markup:
    rows = [(name, value) for name, value in values.items()]
    return tag("div", table(("", "value"), rows, caption=caption), class_="facts")


def _elbo(subject: Subject) -> str:
    fit = subject.fit
    return _UNKNOWN if fit.elbo is None else f"{fit.elbo:,.1f} nats ({fit.elbo_kind})"


def _code(text: str) -> Markup:
    """Text with what stands between backquotes as code."""
    parts = text.split("`")
    return joined(*(tag("code", p) if i % 2 else escaped(p) for i, p in enumerate(parts)))


def _count(number: int | None) -> str:
    return _UNKNOWN if number is None else f"{number:,}"


def _time(seconds: float | None) -> str:
    return _UNKNOWN if seconds is None else words.milliseconds(seconds)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1000 * seconds
