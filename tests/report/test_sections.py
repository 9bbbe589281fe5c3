from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import pyro_turbovbi as ptv
from pyro_turbovbi import engines, priors
from pyro_turbovbi.report import sections
from pyro_turbovbi.report.findings import find
from pyro_turbovbi.report.network import SmallNetwork
from pyro_turbovbi.report.subject import Subject
from pyro_turbovbi.result import History


@pytest.fixture(scope="module")
def full(classifier: ptv.Fit, classes: tuple[Tensor, Tensor]) -> Subject:
    """Everything that a report can speak of, under names that need escaping."""
    small = SmallNetwork.of(classifier.compress(classes, keep=0.5))
    found = find(classifier, classes, small.module, num_samples=4)
    fits = {"<a> $x": classifier, "other": classifier}
    comparison = ptv.compare(fits, classes, num_samples=4)
    stages = {"epoch 1": {"0.weight": torch.rand(4, 3)}}
    return Subject("<a> $x", classifier, small, found, comparison, stages, "net: <x>", others=True)


def cells(markup: str) -> dict[str, list[str]]:
    """Rows of all tables: texts of the cells by the row's name."""
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', markup)
    return {name: re.findall("<td>(.*?)</td>", rest) for name, rest in rows}


def test_the_head_says_it_in_numbers_and_in_words(full: Subject) -> None:
    made = sections.head(full)
    assert full.small is not None
    assert "<h1>&lt;a&gt; $x: what is left of the network</h1>" in made
    assert f"Of the network&#x27;s 20 weights, {full.small.kept} are left" in made
    assert made.count("<dt>") == 5
    assert made.count("<li>") == 4


def test_size_and_speed_has_the_numbers_of_the_network(full: Subject) -> None:
    made = sections.size_and_speed(full)
    assert full.small is not None
    found = cells(made)
    before, after = full.small.before, full.small.after
    assert found["bytes"] == [f"{before.bytes:,}", f"{after.bytes:,}"]
    assert found["parameters"] == [f"{before.parameters}", f"{after.parameters}"]
    assert found["units of the layers"] == list(full.small.units or ())
    assert "percent of the original" in made
    missing = sections.size_and_speed(Subject("a", full.fit))
    assert "There is no small network yet" in missing
    assert "<code>ptv compress</code>" in missing


def test_what_was_not_measured_has_no_row(full: Subject) -> None:
    assert full.small is not None
    blind = replace(
        full.small,
        before=replace(full.small.before, flops=None, latency=None),
        after=replace(full.small.after, flops=None, latency=None),
        units=None,
    )
    names = list(cells(sections.size_and_speed(Subject("a", full.fit, blind))))
    assert names == ["weights left", "parameters", "bytes"]


def test_layers_show_the_stages_that_were_kept(full: Subject) -> None:
    made = sections.layers(full)
    mask = full.masks["0.weight"]
    assert cells(made)["0.weight"][:2] == ["4x3", f"{100 * mask.double().mean():.1f} %"]
    labels = re.findall("<b>(.*?)</b>", made)
    first = ["before training", "epoch 1", "after training", "after cutting"]
    assert labels == [*first, *(label for label in first if label != "epoch 1")]
    assert made.count("<img") == made.count('alt="Weights of ') == 7
    assert "No picture from within the training" not in made
    plain = sections.layers(Subject("a", full.fit))
    assert "No picture from within the training was kept" in plain
    assert "after cutting" not in plain


def test_many_layers_can_be_opened(classes: tuple[Tensor, Tensor]) -> None:
    net = nn.Sequential(*(nn.Linear(3, 3) for _ in range(8)))
    bnn = ptv.lift(net, likelihood=ptv.likelihoods.Categorical(), prior=priors.Normal(1.0))
    fit = ptv.fit(bnn, classes, engine=engines.MAP(), epochs=1, progress=False)
    made = sections.layers(Subject("a", fit))
    assert "<summary>2 further layers</summary>" in made
    point = sections.weights(Subject("a", fit))
    assert "The fit is a point estimate" in point
    assert "log joint (nats)" in sections.training(Subject("a", fit))


def test_training_and_confidence(
    full: Subject, regression: ptv.Fit, numbers: tuple[Tensor, Tensor]
) -> None:
    assert "Two curves over 3 epochs" in sections.training(full)
    empty = replace(full.fit, history=History())
    assert "no history" in sections.training(Subject("a", empty))
    made = sections.confidence(full)
    assert full.found is not None
    assert cells(made)["expected calibration error"] == [f"{full.found.metrics.ece:.4f}"]
    assert "Accuracy against confidence" in made
    sure = Subject("a", regression, found=find(regression, numbers, num_samples=4))
    assert "Histogram of where the targets fall" in sections.confidence(sure)
    assert sections.confidence(Subject("a", regression)).startswith("<p>Without test data")


def test_weights_are_listed_for_those_who_do_not_see_them(full: Subject) -> None:
    made = sections.weights(full)
    assert made.count(" +- ") == 12
    assert "The 12 weights of largest magnitude" in made


def test_other_runs(full: Subject) -> None:
    made = sections.other_runs(full)
    assert full.comparison is not None
    row = full.comparison.rows[0]
    assert f"{row.bytes:,}" in cells(made)["&lt;a&gt; $x"]
    assert made.count("<svg") == 2
    assert sections.other_runs(Subject("a", full.fit)) == ""
    assert "Without test data" in sections.other_runs(Subject("a", full.fit, others=True))
    uncut = tuple(replace(row, bytes=None, uncut="why") for row in full.comparison.rows)
    without = replace(full, comparison=ptv.Comparison(uncut))
    assert "<svg" not in sections.other_runs(without)


def test_recipe_and_environment(full: Subject) -> None:
    made = sections.recipe(full)
    assert "<code>net: &lt;x&gt;</code>" in made
    assert cells(made)["seed"] == [str(full.fit.training.seed)]
    assert "Python" in cells(made)
    assert "not made from a recipe file" in sections.recipe(Subject("a", full.fit))
