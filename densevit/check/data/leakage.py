"""Images that training and evaluation share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .probe import ImageFacts
from .report import DatasetReport

__all__ = ['Checked', 'check_between']


@dataclass(frozen=True)
class Checked:
    """A dataset after its own check.

    Attributes:
        report: what was found.
        splits: which dataloaders read it.
        images: what is known of its sound images, by path.
    """

    report: DatasetReport
    splits: set[str]
    images: Mapping[str, ImageFacts]


def check_between(datasets: Sequence[Checked]) -> None:
    """Note what is wrong between the datasets of the same config."""
    training = [each for each in datasets if 'train' in each.splits]
    known: dict[bytes, str] = {}
    for each in training:
        twice = []
        for name, facts in each.images.items():
            if facts.digest and known.setdefault(facts.digest, name) != name:
                twice.append(name)
        if twice:
            other = known[each.images[twice[0]].digest]
            each.report.add(
                'warning',
                'image-duplicate',
                f'{len(twice)} of {len(each.images)} images have the same content as another, the first is '
                f'{twice[0]!r} as {other!r}; remove the copies.',
                twice,
            )
    paths = {os.path.realpath(name): name for each in training for name in each.images}
    names = {Path(name).name: name for each in training for name in each.images}
    for each in datasets:
        if 'train' in each.splits and each.splits != {'train'}:
            each.report.add(
                'warning',
                'leakage',
                f'training and evaluation ({", ".join(sorted(each.splits - {"train"}))}) read the same images: the '
                'scores will say nothing about new ones; keep some images apart.',
            )
        if 'train' in each.splits or not each.images:
            continue
        shared = {
            name: paths.get(os.path.realpath(name)) or known.get(facts.digest)
            for name, facts in each.images.items()
            if os.path.realpath(name) in paths or facts.digest in known
        }
        if shared:
            name, other = next(iter(shared.items()))
            same = f'{name!r} is {other!r}' if os.path.realpath(name) != os.path.realpath(other) else repr(name)
            each.report.add(
                'warning',
                'leakage',
                f'{len(shared)} of {len(each.images)} images are trained on too (the same file or content), the first: '
                f'{same}; the scores will say nothing about new images: keep them apart.',
                list(shared),
            )
        elif alike := [name for name in each.images if Path(name).name in names]:
            each.report.add(
                'note',
                'same-names',
                f'{len(alike)} of {len(each.images)} images have the name of a training image but other content, the '
                f'first is {alike[0]!r} as {names[Path(alike[0]).name]!r}.',
                alike,
            )
