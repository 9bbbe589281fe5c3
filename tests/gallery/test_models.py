"""Models of the gallery against what they claim to be, and that training teaches them something."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pyro.poutine as poutine
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pyro_turbovbi as ptv
from pyro_turbovbi import engines
from tests.gallery.loading import load


@pytest.fixture(scope="module")
def gpt() -> ModuleType:
    return load("models", "char_gpt")


@pytest.fixture(scope="module")
def vit() -> ModuleType:
    return load("models", "digits_vit")


@pytest.fixture(scope="module")
def tasks() -> ModuleType:
    return load("models", "multi_task")


def by_torch(attention: nn.Module, x: Tensor, heads: int, bias: Tensor | None = None) -> Tensor:
    """What torch's own function makes of an attention's matrices, head by head."""

    def head(name: str, number: int) -> Tensor:
        width = x.shape[-1] // heads
        return attention.get_submodule(name)(x)[..., number * width : (number + 1) * width]

    read = [
        F.scaled_dot_product_attention(
            *(head(name, number) for name in ("query", "key", "value")),
            attn_mask=None if bias is None else bias[number],
        )
        for number in range(heads)
    ]
    return attention.get_submodule("out")(torch.cat(read, -1))  # type: ignore[no-any-return]


def test_attention_of_the_vision_transformer_is_that_of_torch(vit: ModuleType) -> None:
    attention, x = vit.Attention(12, 3).double(), torch.randn(2, 5, 12, dtype=torch.double)
    torch.testing.assert_close(attention(x), by_torch(attention, x, 3), rtol=1e-10, atol=1e-10)


def test_the_vision_transformer_reads_patches(vit: ModuleType) -> None:
    """Pixel (row, column) belongs to patch (row // 2, column // 2), in the order of rows."""
    net = vit.VisionTransformer(width=8, heads=2, blocks=1)
    tokens: list[Tensor] = []
    net.blocks.register_forward_pre_hook(lambda _, inputs: tokens.append(inputs[0].detach()))
    image = torch.zeros(8, 8)
    image[5, 2] = 1.0
    net(torch.stack([torch.zeros(64), image.flatten()]))
    changed = (tokens[0][1] - tokens[0][0]).abs().sum(-1) > 0
    assert changed.nonzero().flatten().tolist() == [(5 // 2) * 4 + 2 // 2]


def test_attention_of_the_gpt_is_that_of_torch(gpt: ModuleType) -> None:
    attention, x = gpt.CausalAttention(12, 3).double(), torch.randn(2, 7, 12, dtype=torch.double)
    slopes = (2.0, 1.0, 0.5)
    bias = torch.full((3, 7, 7), float("-inf"), dtype=torch.double)
    for head, slope in enumerate(slopes):
        for here in range(7):
            for there in range(here + 1):
                bias[head, here, there] = -slope * (here - there)
    expected = by_torch(attention, x, 3, bias)
    torch.testing.assert_close(attention(x), expected, rtol=1e-10, atol=1e-10)


def test_the_gpt_does_not_see_later_characters(gpt: ModuleType) -> None:
    net = gpt.GPT(width=12, heads=3, blocks=2).double()
    x = torch.randint(0, len(gpt.ALPHABET), (3, gpt.LENGTH))
    before = net(x)
    for place in (0, 9, gpt.LENGTH - 1):
        other = x.clone()
        other[:, place:] = (x[:, place:] + 1) % len(gpt.ALPHABET)
        after = net(other)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=0, atol=1e-12)
        assert (after[:, place:] != before[:, place:]).any(-1).all()


def test_the_gpt_takes_shorter_texts(gpt: ModuleType) -> None:
    net, x = gpt.GPT(width=12, heads=3, blocks=1), torch.arange(20).reshape(2, 10)
    torch.testing.assert_close(net(x[:, :4]), net(x)[:, :4])


def test_windows_predict_every_character_of_the_training_text_once(gpt: ModuleType) -> None:
    train, validation, test = gpt.rhymes()
    text = "".join(gpt.ALPHABET[number] for number in train.y.flatten())
    assert gpt.TEXT[1:].startswith(text)
    for part in (train, validation, test):
        assert part.x.shape == part.y.shape == (len(part.x), gpt.LENGTH)
        assert torch.equal(part.x[:, 1:], part.y[:, :-1])
    assert "Twelve" not in text
    assert "Eleven" not in text


def test_a_continuation_takes_the_most_probable_character(gpt: ModuleType) -> None:
    class Next(nn.Module):
        """Says the character after the last one, in the order of the alphabet."""

        def forward(self, x: Tensor) -> Tensor:
            return F.one_hot((x + 1) % len(gpt.ALPHABET), len(gpt.ALPHABET)).float()

    start = gpt.ALPHABET[0] * (gpt.LENGTH + 3)
    assert gpt.continued(Next(), start, 3) == start + gpt.ALPHABET[1:4]


@pytest.mark.parametrize("targets", [1, 2])
def test_noise_of_the_heteroscedastic_net_is_its_second_half(targets: int) -> None:
    bnn = load("models", "heteroscedastic_mlp").build(features=3, targets=targets)
    x, y = torch.randn(7, 3), torch.randn(7, targets)
    output = bnn.net(x)
    law = torch.distributions.Normal(output[:, :targets], output[:, targets:].exp())
    expected = law.log_prob(y).sum(-1)
    torch.testing.assert_close(bnn.likelihood.distribution(output).log_prob(y), expected)
    torch.testing.assert_close(bnn.likelihood.mean(output), law.mean)


def test_diabetes_is_standardised_by_its_training_points() -> None:
    train, validation, test = load("models", "heteroscedastic_mlp").diabetes()
    assert [len(part.x) for part in (train, validation, test)] == [310, 44, 88]
    for values in (train.x, train.y[:, None]):
        torch.testing.assert_close(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(values.var(0, unbiased=False), torch.ones(values.shape[1]))


def test_one_model_of_both_tasks(tasks: ModuleType) -> None:
    """Its log-density at the network's weights is that of the two likelihoods, by hand."""
    net = tasks.Network(hidden=6)
    x, digit, ink = torch.randn(5, 32), torch.tensor([3, -1, 0, 9, -1]), torch.randn(5)
    values = {name: p.detach() for name, p in net.named_parameters()}
    values["noise"] = torch.tensor(0.7)
    model = poutine.condition(tasks.build(hidden=6, num_data=50), values)
    trace = poutine.trace(model).get_trace(x, digit, ink)
    trace.compute_log_prob()
    output = net(x)
    known = digit != -1
    digits = -F.cross_entropy(output[known, :10], digit[known], reduction="sum")
    noise = torch.full((5,), 0.7**2)
    inks = -F.gaussian_nll_loss(output[:, 10], ink, noise, full=True, reduction="sum")
    for site, expected in {"digit": digits, "ink": inks}.items():
        torch.testing.assert_close(trace.nodes[site]["log_prob_sum"], 50 / 5 * expected)


def test_points_of_both_tasks(tasks: ModuleType) -> None:
    few, test = tasks.halves(labels=100)
    everything, _ = tasks.halves(labels=len(few.x))
    assert (few.digit[:100] >= 0).all()
    assert (few.digit[100:] == tasks.UNKNOWN).all()
    assert float(few.ink.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(few.ink.std()) == pytest.approx(1.0, rel=1e-5)
    assert torch.equal(everything.x, few.x)
    assert few.x.shape[1:] == (32,)
    assert (test.digit >= 0).all()


def test_a_hand_written_model_is_trained_and_cut(tasks: ModuleType, tmp_path: Path) -> None:
    """A few steps; the cut network is the one that is saved and loaded."""
    points, test = tasks.halves()
    turbo = tasks.train(points, steps=60, hidden=20)
    assert turbo.guide.autoguide is not None
    small = tasks.cut(turbo, points.x)
    small.save(tmp_path / "net.ptv")
    loaded = ptv.load(tmp_path / "net.ptv", net=tasks.Network(hidden=20))
    assert torch.equal(loaded(test.x), small.module(test.x))
    wrong, rmse = tasks.errors(loaded, test)
    assert 0.0 <= wrong <= 1.0
    assert rmse > 0.0
    assert small.report.kept < 20 * (32 + 11)


def test_a_hand_written_model_draws_both_targets(tasks: ModuleType) -> None:
    trace = poutine.trace(tasks.build(hidden=6)).get_trace(torch.randn(5, 32))
    digit, ink = (trace.nodes[name]["value"] for name in ("digit", "ink"))
    assert digit.shape == ink.shape == (5,)
    assert digit.dtype == torch.long


@pytest.mark.slow
def test_two_tasks_are_learned_better_than_by_a_constant(tasks: ModuleType) -> None:
    points, test = tasks.halves()
    small = tasks.cut(tasks.train(points, steps=800), points.x)
    wrong, rmse = tasks.errors(small.module, test)
    constant = float(test.ink.square().mean().sqrt())
    assert wrong < 0.4, "a constant: 0.9"
    assert rmse < 0.85 * constant


@pytest.mark.slow
def test_the_gpt_tells_the_last_verse_better_than_by_frequencies(gpt: ModuleType) -> None:
    train, _, test = gpt.rhymes()
    engine = engines.Turbo(init_scale=0.1)
    fit = ptv.fit(gpt.build(), train, engine=engine, epochs=40, batch_size=16, progress=False)
    counts = torch.bincount(train.y.flatten(), minlength=len(gpt.ALPHABET)) + 1.0
    frequencies = -(counts / counts.sum()).log()[test.y].mean()
    assert fit.evaluate(test).nll / gpt.LENGTH < 0.7 * float(frequencies)
    annealed = round(40 * engine.annealing.until)  # from here on every ELBO is of one prior
    assert fit.history.elbo[-1] > fit.history.elbo[annealed]
