"""Measures diagonal Fisher information and squared gradients: sums of (d log p / d theta)^2.

Fisher (arXiv 2111.09832):  F = mean over x of  sum_y p(y|x) (d log p(y|x) / d theta)^2

A classifier's sum over y is computed as it stands ("exact"). A language model's sum runs over all
continuations, so y is drawn from the model, each token given the data's own tokens before it
("sampled"). Given those, tokens are independent and their scores have mean zero, so the mean of the
square of their sum is the sum of the tokens' own Fisher informations. "data" takes the data's y,
which gives the empirical Fisher.

Hessian (arXiv 2310.12808, diagonal):  H = mean over x of (d loss(x, y of the data) / d theta)^2

This is the empirical Fisher. Every example is squared on its own; a batch's gradient would mix
them.

Legend: A = answers of an example, V = what each can be (see examples.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from taskstore.errors import InputError
from taskstore.statistics.examples import Encoder, Example
from taskstore.statistics.job import MeasureJob
from taskstore.statistics.options import MeasureOptions

Squares = dict[nn.Parameter, Tensor]
Draw = tuple[Tensor, float]  # y (A,), weight


def labels_of(encoder: Encoder, options: MeasureOptions) -> str:
    """How y of the Fisher is found; raises InputError where it cannot be."""
    if options.labels == "exact" and not encoder.classes:
        raise InputError(
            "labels 'exact' is a sum over all answers, which a language model has no end of; use "
            "sampled or data"
        )
    return options.labels if options.labels != "auto" else "exact" if encoder.classes else "sampled"


def kinds_of_sums(encoder: Encoder, options: MeasureOptions) -> dict[str, list[str]]:
    """y -> the kinds that are sums over it: one sum where both take the data's."""
    labels: dict[str, list[str]] = {}
    for kind in options.diagonals:
        y = "data" if kind == "hessian" else labels_of(encoder, options)
        labels.setdefault(y, []).append(kind)
    return labels


def squares(
    job: MeasureJob, labels: Sequence[str], report: Callable[[], None]
) -> dict[str, Squares]:
    """y of `labels` -> sum over examples of squared gradients, per parameter."""
    subject, options = job.subject, job.options
    sums: dict[str, Squares] = {
        y: {p: torch.zeros_like(p, requires_grad=False) for p in subject.parameters} for y in labels
    }
    generator = torch.Generator().manual_seed(options.seed)
    device = subject.device
    with torch.enable_grad(), _Squarer(subject.parameters) as squarer:
        for example in job.examples:
            moved = {name: value.to(device) for name, value in example.inputs.items()}
            here = Example(moved, example.answers, example.labels_A)
            logp_AV = job.encoder.logits(subject.module, here).float().log_softmax(-1)
            draws = [
                (y, draw)
                for y in sums
                for draw in _draws(y, logp_AV.detach().cpu(), example, options.samples, generator)
            ]
            for i, (y, (y_A, weight)) in enumerate(draws, 1):
                squarer.into(sums[y], weight)
                logp = logp_AV.gather(1, y_A.to(device)[:, None]).sum()
                logp.backward(retain_graph=i < len(draws))  # type: ignore[no-untyped-call]
            report()
    return sums


def _draws(
    y: str, logp_AV: Tensor, example: Example, samples: int, generator: torch.Generator
) -> list[Draw]:
    if y == "data":
        assert example.labels_A is not None
        return [(example.labels_A, 1.0)]
    if y == "exact":
        weights = logp_AV[0].exp().tolist()
        return [(torch.tensor([c]), weight) for c, weight in enumerate(weights) if weight]
    drawn_AS = torch.multinomial(logp_AV.exp(), samples, replacement=True, generator=generator)
    return [(y_A, 1 / samples) for y_A in drawn_AS.T]


class _Squarer(ExitStack):
    """Adds the square of each parameter's gradient to a sum as soon as it is there, and frees it.

    A backward pass thus needs room for the gradients of a layer or two, not of all. A parameter
    with two uses (tied weights) comes once, with the sum of both.
    """

    def __init__(self, parameters: Sequence[Any]) -> None:
        super().__init__()
        for parameter in parameters:
            hook = parameter.register_post_accumulate_grad_hook(self._add)
            self.callback(hook.remove)
        self._sums: Squares = {}
        self._weight = 1.0

    def into(self, sums: Squares, weight: float) -> None:
        """Where the next backward pass adds, and times what."""
        self._sums, self._weight = sums, weight

    def _add(self, parameter: Any) -> None:
        gradient, parameter.grad = parameter.grad, None
        self._sums[parameter].addcmul_(gradient, gradient, value=self._weight)
