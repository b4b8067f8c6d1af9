"""How many images an update of the weights sees, beside the recipe's number and the learning rate."""

from __future__ import annotations

from mmengine.config import Config

from ..errors import UserError
from ..launched import num_processes

__all__ = ['batch_line', 'check_batch', 'effective_batch', 'recipe_batch']


def effective_batch(cfg: Config) -> int:
    """Images per weight update: batch size x processes x accumulated batches."""
    return cfg.train_dataloader.batch_size * num_processes(cfg) * cfg.optim_wrapper.get('accumulative_counts', 1)


def check_batch(cfg: Config) -> None:
    """Look for a pyramid pooling that would normalize over a single value.

    Pooled to one pixel, one image has one value per channel, of which BatchNorm in training has no variance.

    Raises:
        UserError: one image per process, and BatchNorm that is not synchronized.
    """
    if cfg.train_dataloader.get('batch_size') != 1:
        return
    synchronized = ('SyncBN', *(['BN', 'BN2d'] if cfg.get('sync_bn') else ())) if num_processes(cfg) > 1 else ()
    for key in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(key) or ()
        for head in heads if isinstance(heads, (list, tuple)) else [heads]:
            norm = (head.get('norm_cfg') or {}).get('type')
            kind = str(head.get('type')).rpartition('.')[2]
            pyramid = kind in ('UPerHead', 'PSPHead') and 1 in head.get('pool_scales', (1, 2, 3, 6))
            if pyramid and norm in ('BN', 'BN2d', 'SyncBN') and norm not in synchronized:
                raise UserError(
                    f'train_dataloader.batch_size=1: {kind} pools to one pixel and normalizes over the batch, which '
                    'takes two images: use batch_size=2, where --accumulate keeps the images per update, or '
                    f"norm_cfg=dict(type='GN', num_groups=32) in model.{key}."
                )


def recipe_batch(cfg: Config) -> int | None:
    """Images per update that the config's schedule and learning rate are for; None where it does not say."""
    return (cfg.get('auto_scale_lr') or {}).get('base_batch_size')


def batch_line(cfg: Config, scaled: bool) -> str:
    """One line that holds this run's batch and learning rate against the recipe's."""
    batch, recipe = effective_batch(cfg), recipe_batch(cfg)
    rate = cfg.optim_wrapper.optimizer.lr
    line = f'batch: {batch} images per update at learning rate {rate:.3g}'
    if recipe is None:
        return f'{line}; the config names no batch size of its recipe.'
    if batch == recipe or scaled:
        return f"{line}; the recipe's batch is {recipe}{', the rate is scaled to it' if scaled else ''}."
    accumulated = cfg.optim_wrapper.get('accumulative_counts', 1)
    advice = f'--accumulate {recipe * accumulated // batch}, or ' if recipe * accumulated % batch == 0 else ''
    return (
        f"{line}; the recipe's batch is {recipe}, so the result will not be the recipe's: use {advice}--auto-scale-lr."
    )
