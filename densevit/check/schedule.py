"""Whether a schedule fits the training that it is for: units, warm-up, milestones, end."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config

from ..launched import num_processes
from .data.steps import kind_of
from .finding import Finding

__all__ = ['run_length', 'runs_by_epoch', 'schedule_findings', 'warm_up_findings']


def runs_by_epoch(cfg: Config) -> bool:
    """Whether the training loop counts epochs; else iterations."""
    train = cfg.get('train_cfg') or {}
    return kind_of(train) == 'EpochBasedTrainLoop' or bool(train.get('by_epoch')) or 'max_epochs' in train


def run_length(cfg: Config) -> int | None:
    """How many epochs or iterations a training has."""
    return cfg.train_cfg.get('max_epochs' if runs_by_epoch(cfg) else 'max_iters')


def _schedulers(cfg: Config) -> list[tuple[str, dict]]:
    """Those of the learning rate, with their places."""
    given = cfg.get('param_scheduler') or []
    places = {'param_scheduler': given}
    if isinstance(given, (list, tuple)):
        places = {f'param_scheduler[{index}]': each for index, each in enumerate(given)}
    return [(place, each) for place, each in places.items() if isinstance(each, dict)]


def _is_warm_up(scheduler: dict) -> bool:
    rises = scheduler.get('start_factor', 0) < scheduler.get('end_factor', 1)
    return kind_of(scheduler) in ('LinearLR', 'ConstantLR') and rises and scheduler.get('begin', 0) == 0


def _too_long(place: str, end: int, length: int, unit: str, total: str) -> Finding:
    message = (
        f'the warm-up takes {end} {unit}, but training ends after {length} ({total}), so it never reaches its rate; '
        f'give it an end below {length}, or train for longer.'
    )
    return Finding('warning', 'warm-up-too-long', place, message)


def schedule_findings(cfg: Config) -> Iterator[Finding]:
    """What is wrong, or probably a mistake, in the intervals of validation and in the schedulers."""
    length, by_epoch = run_length(cfg), runs_by_epoch(cfg)
    if not isinstance(length, int):
        return
    total, unit = ('max_epochs', 'epochs') if by_epoch else ('max_iters', 'iterations')
    interval = cfg.train_cfg.get('val_interval', 1 if by_epoch else 1000)
    begin = cfg.train_cfg.get('val_begin', 1)
    if cfg.get('val_cfg') is not None and isinstance(interval, int) and max(interval, begin) > length:
        message = f'val_interval={interval}, but training ends after {length} {unit} ({total}): nothing is validated.'
        yield Finding('warning', 'never-validated', 'train_cfg.val_interval', f'{message} Give {length} or less.')
    schedulers, ends = _schedulers(cfg), []
    for place, each in schedulers:
        kind, counts_epochs = kind_of(each), each.get('by_epoch', True)
        converted = each.get('convert_to_iter_based', False)
        if counts_epochs and not by_epoch:
            message = (
                f'{kind} counts epochs (by_epoch=True is the default), but the loop counts iterations and has no '
                'epochs: the rate would never change; write by_epoch=False.'
            )
            yield Finding('error', 'scheduler-by-epoch', place, message)
            continue
        if counts_epochs != by_epoch and not converted:
            continue  # iterations of an epoch are known only with the data
        start, end = each.get('begin', 0), each.get('end')
        if start >= length:
            message = f'{kind} begins at {start}, but training ends after {length} {unit}; begin earlier.'
            yield Finding('warning', 'scheduler-never-begins', place, message)
            continue
        if _is_warm_up(each) and isinstance(end, int) and end >= length:
            yield _too_long(place, end, length, unit, total)
            continue
        late = [each for each in each.get('milestones', ()) if each >= length]
        if late:
            message = f'milestones={late} lie behind the end of training, {length} {unit} ({total}).'
            yield Finding('warning', 'milestone-never', place, message)
        period = each.get('T_max', each.get('total_steps'))
        reach = end if isinstance(end, int) and end < 10**9 else None
        if isinstance(period, int):
            name = 'T_max' if 'T_max' in each else 'total_steps'
            wanted = min(length, reach or length) - start
            if abs(period - wanted) > 0.1 * wanted:
                effect = 'rises again' if period < wanted else 'does not come to its end'
                message = (
                    f'{name}={period}, but this runs for {wanted} {unit} ({total}={length}, begin={start}), so the '
                    f'rate {effect}; give {name}={wanted}.'
                )
                yield Finding('warning', 'schedule-length', place, message)
                continue
        if reach is not None:
            ends.append(reach)
            if (
                each is schedulers[-1][1]
                and kind not in ('LinearLR', 'ConstantLR', 'MultiStepLR', 'StepLR')
                and max(ends) != length
            ):
                effect = 'stops before its end' if reach > length else 'stays at its lowest for the rest'
                message = f'end={reach}, but {total}={length}: the rate {effect}; give end={length}.'
                yield Finding('warning', 'schedule-length', place, message)


def warm_up_findings(cfg: Config, images: int) -> Iterator[Finding]:
    """A warm-up counted in iterations that is longer than a training counted in epochs.

    Args:
        cfg: the config.
        images: that an epoch has.
    """
    loader, epochs = cfg.train_dataloader, run_length(cfg) if cfg.get('train_cfg') else None
    batch = loader.get('batch_size', 1)
    if not runs_by_epoch(cfg) or not all(isinstance(each, int) and each > 0 for each in (epochs, batch)):
        return
    batch *= num_processes(cfg)
    per_epoch = images // batch if loader.get('drop_last') else -(-images // batch)
    length = epochs * per_epoch
    for place, each in _schedulers(cfg) if length else ():  # that an epoch is empty is another finding
        end = each.get('end')
        if not each.get('by_epoch', True) and _is_warm_up(each) and isinstance(end, int) and end >= length:
            yield _too_long(place, end, length, 'iterations', f'{epochs} epochs of {per_epoch}')
