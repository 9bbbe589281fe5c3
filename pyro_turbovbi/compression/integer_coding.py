"""Adaptive coding of integers: signs, classes of magnitude, and places within a class.

A magnitude m >= 1 belongs to the class floor(log2 m). The class is spelled in unary, one adaptive
decision a class; of the place within a class the two leading bits are adaptive and the others
literal. That is an adaptive histogram whose bins are quarters of octaves: it needs no law to be
chosen, and follows bell shapes and heavy tails alike.
"""

from __future__ import annotations

import numpy as np

from pyro_turbovbi.compression.bit_coding import AdaptiveModel, BitCoder, Bits, Indices

CLASSES = 24
"""Number of classes; magnitudes are below 2^24, so that single precision holds them exactly."""
LARGEST = (1 << CLASSES) - 1
"""The largest magnitude."""
_MODELLED = 2


class MagnitudeModel:
    """What is known about the law of some magnitudes."""

    def __init__(self) -> None:
        self.classes = AdaptiveModel(CLASSES)
        self.places = AdaptiveModel(CLASSES << _MODELLED)


def code_signed(
    coder: BitCoder, model: MagnitudeModel, count: int, values: Indices | None = None
) -> Indices:
    """Writes integers other than zero, or reads them.

    Args:
        coder: An encoder, decoder or meter.
        model: The law of the magnitudes; it learns.
        count: Number of integers.
        values: The integers, magnitudes at most `LARGEST`; shape [count]; not looked at in reading.

    Returns:
        The integers, shape [count].
    """
    sizes = code_magnitudes(coder, model, count, None if values is None else np.abs(values))
    negative = coder.literal(count, None if values is None else (values < 0).astype(np.uint8))
    return np.where(negative != 0, -sizes, sizes)


def code_magnitudes(
    coder: BitCoder, model: MagnitudeModel, count: int, values: Indices | None = None
) -> Indices:
    """Writes positive integers, or reads them.

    Args:
        coder: An encoder, decoder or meter.
        model: Their law; it learns.
        count: Number of integers.
        values: The integers from 1 to `LARGEST`, shape [count]; not looked at in reading.

    Returns:
        The integers, shape [count].
    """
    classes = _code_classes(coder, model, count, values)
    sizes = np.ones(count, np.int64)
    for place in range(int(classes.max(initial=0))):
        at = np.flatnonzero(classes > place)
        bits = None if values is None else _bit(values[at], classes[at] - 1 - place)
        if place < _MODELLED:
            coded = _code_place(coder, model, classes[at], sizes[at], bits)
        else:
            coded = coder.literal(len(at), bits)
        sizes[at] = 2 * sizes[at] + coded
    return sizes


def _code_place(
    coder: BitCoder, model: MagnitudeModel, classes: Indices, sizes: Indices, bits: Bits | None
) -> Bits:
    """One leading bit of every place; its context is the class and the bits before it."""
    contexts = (classes << _MODELLED) + sizes
    coded = np.zeros(len(sizes), np.uint8)
    for context in np.unique(contexts):
        at = contexts == context
        given = None if bits is None else bits[at]
        coded[at] = coder.run(model.places, int(context), int(at.sum()), given)
    return coded


def _code_classes(
    coder: BitCoder, model: MagnitudeModel, count: int, values: Indices | None
) -> Indices:
    classes = np.zeros(count, np.int64)
    open_ = np.arange(count)
    for level in range(CLASSES - 1):
        if not len(open_):
            break
        bits = None if values is None else (values[open_] >> (level + 1) != 0).astype(np.uint8)
        larger = coder.run(model.classes, level, len(open_), bits)
        open_ = open_[larger != 0]
        classes[open_] = level + 1
    return classes


def _bit(values: Indices, places: Indices) -> Bits:
    return ((values >> places) & 1).astype(np.uint8)
