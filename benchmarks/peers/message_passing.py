"""Other code's message passing, checked against ours and timed beside it in one process.

    python -m benchmarks.peers.message_passing NAME --threads N     prints a JSON list of rows

`benchmarks/message_passing.py` starts it once per peer and number of threads. Every peer gets its
input in the form that it takes and may leave its result in the form that it gives: neither
conversion is timed, nor is compilation. A peer that is not installed, or does not run, is a row
that says so; one that finds another posterior is an error.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.message_passing import LAW, best
from pyro_turbovbi.kernels import chain_posterior, grid_posterior

SHAPE = (300, 784)
SWEEPS = 4
#: Grid on which a flooding schedule is run to its fixed point, and the rounds for it.
SMALL_GRID, ROUNDS = (24, 32), 300

START = torch.tensor([1 - LAW.density, LAW.density])
STEPS = torch.tensor([[LAW.p00, LAW.p01], [LAW.p10, LAW.p11]])


class Task(NamedTuple):
    """A problem in a peer's own form: what is timed, and what turns its result into P(s = 1)."""

    run: Callable[[], Any]
    read: Callable[[Any], Tensor]


class Peer(NamedTuple):
    """Other code.

    Attributes:
        title: Its name in the table.
        module: What it needs to import.
        prepare: Makes a task from log-likelihood ratios and a number of sweeps.
        threaded: Whether it can use several threads.
        grid: Whether it solves a grid; otherwise row chains.
    """

    title: str
    module: str
    prepare: Callable[[Tensor, int], Task]
    threaded: bool = True
    grid: bool = False


def local_evidence(llr: Tensor) -> Tensor:
    """Log-likelihoods `[..., 2]` of both states."""
    return torch.stack([torch.zeros_like(llr), llr], -1)


def pyro(llr: Tensor, sweeps: int) -> Task:
    """Pyro's DiscreteHMM: the gradient of its log-evidence."""
    import pyro.distributions as dist

    local = llr.clone().requires_grad_()

    def run() -> Tensor:
        hmm = dist.DiscreteHMM(
            START.log(), STEPS.log(), dist.Unit(local_evidence(local)), validate_args=False
        )
        # its chain takes a transition before the first element, which a stationary start absorbs
        evidence = hmm.log_prob(torch.empty(*llr.shape, 0))
        return torch.autograd.grad(evidence.sum(), local)[0]

    return Task(run, lambda probability: probability)


def hmmlearn(llr: Tensor, sweeps: int) -> Task:
    """Forward-backward of hmmlearn in C++, chain after chain, in its default form (scaling)."""
    from hmmlearn import _hmmc

    start, steps = START.double().numpy(), STEPS.double().numpy()
    local = local_evidence(llr.double())
    odds = (local - local.amax(-1, keepdim=True)).exp().numpy()

    def run() -> list[Any]:
        result = []
        for chain in odds:
            _, forward, scaling = _hmmc.forward_scaling(start, steps, chain)
            joint = forward * _hmmc.backward_scaling(start, steps, chain, scaling)
            result.append(joint / joint.sum(-1, keepdims=True))
        return result

    return Task(run, lambda chains: torch.stack([torch.from_numpy(c[:, 1]) for c in chains]))


def dynamax(llr: Tensor, sweeps: int) -> Task:
    """Smoother of dynamax, compiled by jax for all chains at once."""
    import jax
    from dynamax.hidden_markov_model import hmm_smoother

    start, steps, local = (
        jax.numpy.asarray(t.numpy()) for t in (START, STEPS, local_evidence(llr))
    )

    def smooth(chain: Any) -> Any:
        return hmm_smoother(start, steps, chain).smoothed_probs[:, 1]

    solve = jax.jit(jax.vmap(smooth))
    return Task(lambda: solve(local).block_until_ready(), lambda p: torch.tensor(p.tolist()))


def pomegranate(llr: Tensor, sweeps: int) -> Task:
    """Forward and backward pass of pomegranate's DenseHMM, all chains as one batch."""
    from pomegranate.distributions import Categorical
    from pomegranate.hmm import DenseHMM

    states = [Categorical([[0.5, 0.5]]) for _ in range(2)]  # not used: emissions are given
    hmm = DenseHMM(states, edges=STEPS.tolist(), starts=START.tolist(), ends=[1.0, 1.0])
    local = local_evidence(llr)

    def run() -> Tensor:
        # its forward_backward would count transitions too, which the others leave out
        with torch.no_grad():
            joint: Tensor = hmm.forward(emissions=local) + hmm.backward(emissions=local)
            return joint.softmax(-1)

    return Task(run, lambda probability: probability[..., 1])


def pgmax(llr: Tensor, sweeps: int) -> Task:
    """Loopy sum-product of PGMax: each round updates all messages of the grid at once."""
    import jax
    from pgmax import fgraph, fgroup, infer, vgroup

    rows, columns = llr.shape
    variables = vgroup.NDVarArray(num_states=2, shape=(rows, columns))
    graph = fgraph.FactorGraph(variable_groups=[variables])
    for down, right in ((0, 1), (1, 0)):
        pairs = [
            [variables[i, j], variables[i + down, j + right]]
            for i in range(rows - down)
            for j in range(columns - right)
        ]
        graph.add_factors(
            fgroup.PairwiseFactorGroup(
                variables_for_factors=pairs, log_potential_matrix=(STEPS / START).log().numpy()
            )
        )
    solver = infer.build_inferer(graph.bp_state, backend="bp")
    evidence = (START.log() + local_evidence(llr)).numpy()
    arrays = solver.init(evidence_updates={variables: evidence})
    # its own defaults are max-product and damping
    solve = jax.jit(lambda a: solver.run(a, num_iters=sweeps, damping=0.0, temperature=1.0))

    def read(result: Any) -> Tensor:
        marginals = infer.get_marginals(solver.get_beliefs(result))
        return torch.tensor(marginals[variables][..., 1].tolist())

    return Task(lambda: jax.block_until_ready(solve(arrays)), read)


PEERS: dict[str, Peer] = {
    "dynamax": Peer("dynamax", "dynamax", dynamax),
    "hmmlearn": Peer("hmmlearn", "hmmlearn", hmmlearn, threaded=False),
    "pyro": Peer("Pyro's DiscreteHMM", "pyro", pyro),
    "pomegranate": Peer("pomegranate", "pomegranate", pomegranate),
    "pgmax": Peer("PGMax, flooding", "pgmax", pgmax, grid=True),
}


def check(peer: Peer, shape: tuple[int, int]) -> None:
    """Compare posterior probabilities; where schedules differ, at the fixed point of both.

    Raises:
        AssertionError: If the peer finds another posterior.
    """
    llr = 3 * torch.randn(shape)
    task = peer.prepare(llr, ROUNDS)
    if peer.grid:
        expected = grid_posterior(llr.double(), LAW, LAW, sweeps=ROUNDS).log_odds.sigmoid()
    else:
        expected = chain_posterior(llr.double(), LAW).log_odds.sigmoid()
    torch.testing.assert_close(task.read(task.run()).double(), expected, rtol=1e-3, atol=1e-4)


def ours(llr: Tensor, *, grid: bool) -> Callable[[], object]:
    """The same task in this package, results written in place."""
    extrinsic, messages = torch.empty_like(llr), torch.empty_like(llr)
    if grid:
        return lambda: grid_posterior(llr, LAW, LAW, sweeps=SWEEPS, out=(extrinsic, messages))
    return lambda: chain_posterior(llr, LAW, out=extrinsic)


def measure(peer: Peer) -> dict[str, Any]:
    """Nanoseconds per variable (and sweep), and their ratio to ours, timed before and after."""
    llr = 3 * torch.randn(SHAPE)
    size = llr.numel() * (SWEEPS if peer.grid else 1)
    task, own = peer.prepare(llr, SWEEPS), ours(llr, grid=peer.grid)
    before, cost, after = best(own, size), best(task.run, size), best(own, size)
    return {"ns_per_variable": round(cost, 2), "times_ours": round(cost / min(before, after), 2)}


def reason_for_absence(peer: Peer) -> str | None:
    """Why a peer cannot take part, from a problem of a few elements; None if it can."""
    if importlib.util.find_spec(peer.module) is None:
        return "not installed"
    try:
        peer.prepare(torch.zeros(2, 2), 1).run()
    except Exception as error:  # whatever another package does beside these versions
        return f"does not run ({type(error).__name__}: {str(error).splitlines()[0]})"
    return None


def rows(peer: Peer, threads: int) -> list[dict[str, Any]]:
    """A peer's row; none if it cannot use that many threads."""
    if threads > 1 and not peer.threaded:
        return []
    row = {
        "method": f"{'grid, a sweep' if peer.grid else 'row chains'} ({peer.title})",
        "shape": f"{SHAPE[0]} x {SHAPE[1]}",
        "threads": threads,
    }
    reason = reason_for_absence(peer)
    if reason is not None:
        return [{**row, "ns_per_variable": f"absent: {reason}"}] if threads == 1 else []
    check(peer, SMALL_GRID if peer.grid else SHAPE)
    return [row | measure(peer)]


def main() -> None:
    """Measure one peer; one thread means one core, so that no library can start more."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=PEERS, help="the peer")
    parser.add_argument("--threads", type=int, default=1, help="threads that may be used")
    arguments = parser.parse_args()
    if arguments.threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")  # of the peers, about the versions that they meet
    print(json.dumps(rows(PEERS[arguments.name], arguments.threads)))


if __name__ == "__main__":
    main()
