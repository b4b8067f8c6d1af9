"""All checks of a config, one after the other; none stops at the first fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from mmengine.config import Config

from ..errors import UserError
from .classes import class_findings
from .data import check_datasets
from .environment import environment_findings
from .estimates import estimate_disk, estimate_memory, training_size
from .finding import Finding, without_repeats
from .inputs import input_findings
from .model import build_on_meta, channel_mistakes, training_pass
from .recipe import batch_norm_findings, custom_key_findings, recipe_findings
from .report import CheckReport
from .schedule import warm_up_findings
from .weights import weight_findings

__all__ = ['check_run']


def check_run(
    cfg: Config,
    mistakes: Sequence[Finding] = (),
    *,
    checkpoint: str | None = None,
    quick: bool = False,
    splits: Sequence[str] = ('train', 'val', 'test'),
    workers: int = 0,
    progress: bool = False,
) -> CheckReport:
    """Look at a config, its model, its weights, its recipe, its data and what it will need; raise nothing.

    Args:
        cfg: of :func:`densevit.config.reading.read_config`, with the options of the run in it.
        mistakes: what :func:`densevit.config.mistakes.find_mistakes` has found in it. Where the model's part has errors
            it is not built.
        checkpoint: one more file to be held against the model.
        quick: what a training does before it starts, within seconds: no pass through the model, a sample of the data,
            and nothing about packages.
        splits: whose data sets are looked at; none of them: ``()``.
        workers: processes that read the data.
        progress: show bars.
    """
    report = CheckReport(str(cfg.filename or ''), quick=quick)
    report.findings += mistakes
    broken = {found.place.partition('.')[0] for found in mistakes if found.level == 'error'}
    misfits = {found.place for found in mistakes if found.kind == 'wrong-type'}

    def run(check: Callable[[], Iterable[Finding]]) -> None:
        report.findings += [found for found in _guarded(check) if found.place not in misfits]

    if not quick:
        run(lambda: environment_findings(cfg))
    # a field that is no dict, or a model that names what there is not, says nothing to what comes here
    if not any('.' not in place for place in misfits):
        run(lambda: recipe_findings(cfg))
        run(lambda: input_findings(cfg))
        run(lambda: class_findings(cfg, splits or ('train', 'val')))
        if broken.intersection(('model', 'default_scope')):
            message = 'mend its errors first: channels, weights and memory are not checked.'
            report.findings.append(Finding('note', 'not-checked', 'model', message))
        elif cfg.get('model') is not None:
            run(lambda: _model(cfg, report, checkpoint))
        if splits and 'default_scope' not in broken:
            run(lambda: _data(cfg, report, splits, workers, progress))
    # what the files say goes before what the config says of the same place
    of_data = [found for each in report.datasets for found in each.findings]
    told = {(found.kind, found.place) for found in of_data}
    kept = [found for found in report.findings if (found.kind, found.place) not in told]
    faulty = [found.place for found in mistakes if found.level == 'error']
    for found in [each for each in of_data if each.kind == 'pipeline-fails']:  # as these say with more sense
        if any(place.startswith(found.place) for place in faulty):
            of_data.remove(found)
    report.findings = without_repeats([*kept, *of_data])
    return report


def _model(cfg: Config, report: CheckReport, checkpoint: str | None) -> Iterable[Finding]:
    model, reasons = build_on_meta(cfg)
    yield from reasons
    if model is not None:
        wrong = list(channel_mistakes(model))
        yield from wrong
        trains = isinstance(cfg.get('train_dataloader'), dict) and cfg.get('optim_wrapper') is not None
        saved, size = None, training_size(cfg)
        if not report.quick and not wrong:
            batch = (cfg.get('train_dataloader') or {}).get('batch_size', 2)
            passed = training_pass(cfg, model, batch if isinstance(batch, int) and batch > 0 else 2, size)
            yield from passed.findings
            saved = passed.saved
        if trains:
            if not report.quick:
                report.memory = estimate_memory(cfg, model, saved, size)
                yield from report.memory.findings()
            report.disk = estimate_disk(cfg, model)
            yield from report.disk.findings()
            told = any(found.kind == 'batch-norm-of-one-image' for found in report.findings)
            yield from () if told else batch_norm_findings(cfg, model)
            yield from custom_key_findings(cfg, model)
    # last, since loading may change how a backbone computes; a run that goes on looks at its own checkpoint itself
    if not (report.quick and cfg.get('resume') is True):
        yield from weight_findings(cfg, model, checkpoint)


def _data(cfg: Config, report: CheckReport, splits: Sequence[str], workers: int, progress: bool) -> Iterable[Finding]:
    report.datasets += check_datasets(
        cfg, splits, thorough=not report.quick, workers=workers, progress=progress, pipelines=True
    )
    for each in report.datasets:
        if each.path == 'train_dataloader.dataset' and each.images:
            yield from warm_up_findings(cfg, each.images)


def _guarded(check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; one that fails itself takes nothing from the others."""
    found: list[Finding] = []
    try:
        for each in check():
            found.append(each)
    except UserError as error:
        found.append(Finding('error', 'refused', 'config', str(error)))
    except Exception as error:  # a config can hold anything
        reason = ' '.join(str(error).split())
        message = f'a part of the check failed and says nothing ({type(error).__name__}: {reason}).'
        found.append(Finding('warning', 'check-failed', 'config', message))
    return found
