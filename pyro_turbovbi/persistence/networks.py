"""A lifted net as a tree: network, likelihood and prior.

A network that is a layer of the closed list of `compression.layers`, or a Sequential of such
networks, rebuilds itself. Of any other the tree holds the tensors, and an instance of its class has
to be given. Likelihoods and priors are those of this package.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyro_turbovbi.compression.layers import blank, check_layer, config_of, listed_type
from pyro_turbovbi.errors import (
    InvalidArgumentError,
    ShapeError,
    SpecError,
    UnsupportedError,
)
from pyro_turbovbi.lift import BayesianNet, weight_matrices
from pyro_turbovbi.likelihoods import Likelihood
from pyro_turbovbi.persistence.likelihoods import arguments_of, made, storable
from pyro_turbovbi.persistence.trees import Tree
from pyro_turbovbi.priors.base import Prior
from pyro_turbovbi.priors.selection import BySite, as_selection
from pyro_turbovbi.priors.spec import from_spec, to_spec

#: What a layer's table entry leaves out because it does nothing in evaluation mode.
_ATTRIBUTES = ("p", "inplace")


def dump_bayesian_net(bnn: BayesianNet) -> Tree:
    """A lifted net as a tree.

    Args:
        bnn: The lifted net.

    Raises:
        UnsupportedError: If its likelihood or a prior is of a class from outside this package.
    """
    names = [name for name, _ in bnn.net.named_parameters()]
    declared = bnn.prior.select(names, weight_matrices(bnn.net))
    return {
        "net": _dump_net(bnn.net),
        "likelihood": _dump_likelihood(bnn.likelihood),
        "prior": _dump_prior(bnn.prior),
        "bound": {
            name: _dump_prior(site.prior)
            for name, site in bnn.sites.items()
            if site.prior != declared[name]
        },
        "num_data": bnn.num_data,
    }


def restore_bayesian_net(tree: Tree, net: nn.Module | None) -> BayesianNet:
    """The lifted net of a tree, in evaluation mode.

    Args:
        tree: What `dump_bayesian_net` returned.
        net: An instance of the network's class, if it does not rebuild itself; it is not touched.

    Raises:
        InvalidArgumentError: If a network is needed and not given.
        ShapeError: If the network does not fit.
    """
    bound: Any = {name: from_spec(spec) for name, spec in tree["bound"].items()}
    bnn = BayesianNet(
        _restore_net(tree["net"], net),
        _restore_likelihood(tree["likelihood"]),
        as_selection(from_spec(tree["prior"])),
        bound=bound,
    )
    bnn.num_data = tree["num_data"]
    return bnn.eval()


def _dump_net(net: nn.Module) -> Tree:
    return {
        "class": f"{type(net).__module__}.{type(net).__qualname__}",
        "layers": _dump_layers(net) if _rebuilds_itself(net) else None,
        "state": dict(net.state_dict()),
        "frozen": [name for name, p in net.named_parameters() if not p.requires_grad],
    }


def _restore_net(tree: Tree, net: nn.Module | None) -> nn.Module:
    if net is None and tree["layers"] is None:
        raise InvalidArgumentError(
            "the file holds a network whose class it cannot bring along",
            given=tree["class"],
            accepted="Fit.load(path, net=MyNet())",
        )
    restored = _restore_layers(tree["layers"]) if net is None else copy.deepcopy(net)
    _fill(restored, tree["state"])
    for name, parameter in restored.named_parameters():
        parameter.requires_grad_(name not in tree["frozen"])
    return restored.eval()


def _fill(net: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a network its tensors, dtypes included; what is tied stays tied."""
    own = net.state_dict(keep_vars=True)
    _check_tensors(net, own, state)
    for name, value in state.items():
        if isinstance(value, Tensor):
            own[name].data = own[name].data.to(value.dtype)
    net.load_state_dict(dict(state))


def _check_tensors(net: nn.Module, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    shapes, wanted = (
        {name: tuple(v.shape) if isinstance(v, Tensor) else None for name, v in values.items()}
        for values in (own, state)
    )
    differing = [n for n in shapes | wanted if shapes.get(n, "none") != wanted.get(n, "none")]
    if differing:
        name = differing[0]
        raise ShapeError(
            "the network does not fit the file",
            given=f"{type(net).__name__} with {name!r}: {shapes.get(name, 'none')}",
            accepted=f"{name!r}: {wanted.get(name, 'none')}",
        )


def _rebuilds_itself(net: nn.Module) -> bool:
    """Whether a network is rebuilt exactly from the table of layers."""
    try:
        rebuilt = _restore_layers(_dump_layers(net))
    except UnsupportedError:
        return False
    tied = len(list(net.parameters())) < len(list(net.named_parameters(remove_duplicate=False)))
    return not tied and repr(rebuilt) == repr(net)


def _dump_layers(net: nn.Module | None) -> Tree:
    if net is None:  # Sequential allows it, and fails when it runs
        raise UnsupportedError("a network has a gap between its layers")
    if type(net) is nn.Sequential and not net._forward_hooks and not net._forward_pre_hooks:
        return [[name, _dump_layers(child)] for name, child in net._modules.items()]
    check_layer(net, "")
    attributes = {name: getattr(net, name) for name in _ATTRIBUTES if hasattr(net, name)}
    return {"type": type(net).__name__, "config": config_of(net), "attributes": attributes}


def _restore_layers(tree: Tree) -> nn.Module:
    """The network without values in its tensors."""
    if isinstance(tree, list):
        net = nn.Sequential()
        for name, child in tree:
            net.add_module(name, _restore_layers(child))
        return net
    layer = blank(listed_type(tree["type"], tree["config"]), tree["config"])
    for name in _ATTRIBUTES:
        if name in tree["attributes"]:
            setattr(layer, name, tree["attributes"][name])
    return layer.to_empty(device="cpu")


def _dump_likelihood(likelihood: Likelihood) -> Tree:
    if not storable(likelihood):
        raise UnsupportedError(
            "the likelihood cannot be stored",
            given=likelihood,
            accepted="a likelihood of pyro_turbovbi.likelihoods",
        )
    return {
        "kind": type(likelihood).__name__,
        "arguments": arguments_of(likelihood),
        "state": dict(likelihood.state_dict()),
    }


def _restore_likelihood(tree: Tree) -> Likelihood:
    likelihood = made(tree["kind"], tree["arguments"])
    _fill(likelihood, tree["state"])
    return likelihood


def _dump_prior(prior: Any) -> Tree:
    try:
        spec = to_spec(prior)
        same = from_spec(spec) == prior
    except SpecError as error:
        raise _unknown(prior) from error
    if not same:
        raise _unknown(prior)
    return spec


def _unknown(prior: Prior | BySite) -> UnsupportedError:
    return UnsupportedError(
        "the prior cannot be stored",
        given=prior,
        accepted="priors and supports of this package, whose parameters are plain numbers",
    )
