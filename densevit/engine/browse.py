"""The run behind ``tools/browse_data.py``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from ..config.reading import load_config
from ..data.samples import FedSamples
from ..pages.browse import write_browse
from .conditions import step_text

__all__ = ['browse']


def browse(args: argparse.Namespace) -> None:
    """Write the page of a config's data and print its path.

    Raises:
        UserError: a mistake in the config or an option, or no data where the config says that it is.
    """
    cfg = load_config(args.config, args.cfg_options)
    fed = FedSamples(cfg, args.split)
    indices = fed.chosen(args.num, args.seed)
    versions = args.versions or (3 if args.split == 'train' else 1)
    name = Path(cfg.filename).stem
    out = Path(args.out or Path('work_dirs') / name / f'data_{args.split}.html')
    samples = fed.samples(indices, versions, args.seed)
    shown = track(samples, 'images', total=len(indices), console=Console(stderr=True), transient=True)
    path, odd = write_browse(
        out,
        fed,
        shown,
        title=f'{name}: what it is fed',
        subtitle=f'{len(indices)} of {len(fed):,} images for {_USES[args.split]}, after pipeline and preprocessor.',
        facts=[
            ('config', str(cfg.filename)),
            ('split', args.split),
            ('seed', f'{args.seed}: the same command shows the same pictures'),
            *_facts(fed),
            ('pipeline', ', '.join(step_text(step) for step in _pipeline(cfg[f'{args.split}_dataloader'].dataset))),
        ],
    )
    if odd:
        print(f'{odd} of {len(indices)} images have a warning.')
    print(path.resolve())


_USES = {'train': 'training', 'val': 'validation', 'test': 'testing'}


def _facts(fed: FedSamples) -> list[tuple[str, str]]:
    preprocessor = fed.preprocessor
    rows = [
        ('data set', type(fed.dataset).__name__),
        ('classes', str(len(fed.classes))),
        ('channels', f'{fed.channels}, as the model gets them'),
    ]
    if fed.mean is not None:
        rows += [(name, ', '.join(f'{value:.2f}' for value in values)) for name, values in
                 (('mean', fed.mean), ('standard deviation', fed.std))]  # fmt: skip
    if fed.training and getattr(preprocessor, 'size', None):
        rows.append(('padded to', ' x '.join(map(str, preprocessor.size))))
    elif getattr(preprocessor, 'pad_size_divisor', 1) > 1:
        rows.append(('padded to', f'multiples of {preprocessor.pad_size_divisor}; here as a batch of one image'))
    return rows


def _pipeline(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    """The steps of a dataset's config, of the first one where it wraps several."""
    while 'pipeline' not in dataset:
        inner = dataset.get('dataset') or dataset.get('datasets')
        if not inner:
            return []
        dataset = inner[0] if isinstance(inner, list) else inner
    return dataset['pipeline']
