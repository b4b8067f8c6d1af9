"""The table of `tools/benchmark.py --table`: named works, who else does them, and how much faster ours has to be.

A goal is the peer's median time by ours, in float32 on two CPU cores, eager against eager, or, for memory, our peak by
the peer's. Where several packages do the same work, the fastest one that gives the same result counts.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..analysis.complexity import complexity
from ..errors import UserError, did_you_mean
from ..inference.folding import fold
from .child import in_child
from .measure import Row, Side, Timing, compare, differences_of, duel, timer
from .models import Spec, Work, build, fold_peer, parse_spec
from .parts import part_times
from .peers import peers_of
from .run import Options, compile_parts, on_meta, peak_of_side, sides_of

__all__ = ['CASES', 'Case', 'peak_of_case', 'run_case', 'select', 'winograd_twin', 'without_numbers']

EXACT, WINOGRAD, MEMORY, RATIO = 'exact', 'winograd', 'memory', 'ratio'
QUICK_COCO = (40, 10, 300, 20)


@dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        name: how it is asked for.
        work: what is done, for people.
        peer: who else does it, for people.
        goals: by what is counted: the least ratio, of ``memory`` the largest; empty where it is for information.
        measure: does it.
        rounds: of the duel.
        options: of the models: ``model``, ``packages``, ``size``, and what else differs.
    """

    name: str
    work: str
    peer: str
    goals: Mapping[str, float]
    measure: Callable[[Case, Options, bool], dict[str, Any]]
    rounds: int = 9
    options: Mapping[str, Any] = field(default_factory=dict)


def select(names: Sequence[str]) -> list[Case]:
    """The cases of these names, or all.

    Raises:
        UserError: there is none of a name.
    """
    for name in names:
        if name not in CASES:
            hint = did_you_mean(name, CASES) or '.'
            raise UserError(f'--table has no case {name!r}{hint} Valid are {", ".join(CASES)}.')
    return [CASES[name] for name in names] or list(CASES.values())


def run_case(case: Case, options: Options, *, quick: bool = False, rounds: int | None = None) -> dict[str, Any]:
    """Measure a case: its rows, what was reached of its goals, and whether all were.

    Args:
        case: one of ``CASES``.
        options: device, dtype, memory format and compilation; size, batch and the rest are the case's.
        quick: small inputs, to see whether it runs.
        rounds: instead of the case's own.
    """
    options = replace(options, rounds=rounds or (2 if quick else case.rounds), fold=True)
    found = case.measure(case, options, quick)
    gc.collect()
    reached = found['reached']
    met = all(
        reached.get(key) is not None and (reached[key] <= goal if key.startswith(MEMORY) else reached[key] >= goal)
        for key, goal in case.goals.items()
    )
    result = {**_head(case), 'met': bool(met and not found.get('wrong')) if case.goals else None, **found}
    if options.compile:  # the goals are for eager models
        result |= {'goals': {}, 'met': None, 'compiled': True}
    return result


def _head(case: Case) -> dict[str, Any]:
    return {'name': case.name, 'work': case.work, 'peer': case.peer, 'goals': dict(case.goals)}


def without_numbers(case: Case, why: str) -> dict[str, Any]:
    """The entry of a case that could not be measured."""
    return {**_head(case), 'met': False if case.goals else None, 'reached': {}, 'rows': [], 'notes': [why]}


# ------------------------------------------------------------------------------------------- models as a whole
def _spec(case: Case, *, winograd: bool = False) -> Spec:
    return parse_spec(case.options['model']).without_dropping().with_fast_parts(winograd=winograd)


def _size(case: Case, quick: bool) -> tuple[int, int]:
    return case.options.get('quick_size', (128, 160)) if quick else case.options['size']


def _build(case: Case, spec: Spec) -> nn.Module:
    return build(spec, gains=case.options.get('gains'))


def winograd_twin(case: Case, model: nn.Module) -> nn.Module:
    """The same model with Winograd's convolutions, whose own pass would give BatchNorm other statistics."""
    twin = _build(case, _spec(case, winograd=True))
    twin.load_state_dict(model.state_dict())
    return twin


def _sides(
    case: Case, options: Options, quick: bool, labels: Sequence[str] | None = None
) -> tuple[list[Side], list[nn.Module], Work]:
    """Ours, with Winograd's convolutions where the case has a goal for that, and the peers."""
    options = replace(
        options, size=_size(case, quick), batch=case.options.get('batch', 1), train=case.options.get('train', False),
        fold=True,
    )  # fmt: skip
    spec = _spec(case)
    model = _build(case, spec)
    wanted = lambda label: labels is None or label in labels  # noqa: E731
    packages = [name for name in case.options['packages'] if labels is None or any(
        label.partition(',')[0] == name for label in labels)]  # fmt: skip
    sides, models, work = sides_of(spec, packages, options, model=model)
    if WINOGRAD in case.goals and wanted(WINOGRAD):
        more, more_models, _ = sides_of(_spec(case, winograd=True), [], options, model=winograd_twin(case, model))
        sides.insert(1, replace(more[0], label=WINOGRAD))
        models.insert(1, more_models[0])
    return sides, models, work


def _measure_models(case: Case, options: Options, quick: bool) -> dict[str, Any]:
    sides, models, work = _sides(case, options, quick)
    _check_counts(case, models[0], work, quick)
    notes = []
    if options.compile:
        sides, notes = _that_compile(sides)
    differences = None
    tolerance = options.tolerance_of(work.train)
    if case.options.get('exactly') is not None:  # rounding would decide which regions are drawn
        tolerance = case.options['exactly']
        kept = {side.label for side in sides}
        exact, *_ = _sides(case, replace(options, dtype='float64', compile=False), quick)
        differences = differences_of([side for side in exact if side.label in kept])
    rows = duel(
        sides, dtype=options.dtype, rounds=options.rounds, warmups=options.warmups, clock=timer(work.device),
        tolerance=tolerance,
        differences=differences,
    )  # fmt: skip
    found = _reached(case, rows)
    if work.spec.kind != 'backbone' and not work.train and not options.compile:
        found['parts'] = {
            side.label: {
                name: float(np.median(seconds))
                for name, seconds in part_times(model, side.run, work.device, 1 if quick else 3).items()
            }
            for side, model in zip(sides, models, strict=True)
        }
    if differences is not None:
        notes.append('the differences are those in float64: in float32 rounding decides which regions are drawn')
    if notes:
        found['notes'] = notes
    found['conditions'] = {'size': list(work.size), 'batch': work.batch, 'train': work.train, 'dtype': work.dtype}
    found['macs'] = work.batch * complexity(on_meta(parse_spec(case.options['model'])), work.size)['total'].macs
    labels = [side.label for side in sides]
    del sides, models, work
    gc.collect()
    if MEMORY in case.goals and not options.compile:
        _add_memory(case, found, labels, options, quick)
    return found


def _that_compile(sides: Sequence[Side]) -> tuple[list[Side], list[str]]:
    """Ours, the peers that torch.compile can run, and a note about every other."""
    found, notes = [], []
    for index, side in enumerate(sides):
        if index == 0 or side.label == WINOGRAD:  # ours: a failure is one
            found.append(side)
            continue
        try:
            side.outputs()
        except Exception as error:  # whatever a compiler raises over code of others
            why = re.split(r'[.\n]', str(error).strip())[0] or type(error).__name__
            notes.append(f'{side.label}: left out, torch.compile fails on it ({why})')
        else:
            found.append(side)
    return found, notes


def _reached(case: Case, rows: Sequence[Row]) -> dict[str, Any]:
    """Ratios by goal: of the fastest peer whose result is the same."""
    ours = {WINOGRAD: None, EXACT: rows[0], RATIO: rows[0]}
    peers = [row for row in rows[1:] if row.label != WINOGRAD and row.ratio is not None]
    for row in rows[1:]:
        if row.label == WINOGRAD and row.ratio is not None:
            ours[WINOGRAD] = row
    reached: dict[str, Any] = {}
    for key in case.goals or (RATIO,):
        if key == MEMORY:
            continue
        side = ours.get(key)
        reached[key] = min(p.timing.median for p in peers) / side.timing.median if peers and side else None
    return {
        'reached': reached,
        'best_peer': min(peers, key=lambda row: row.timing.median).label if peers else None,
        'rows': [row.to_json() for row in rows],
        'wrong': [row.label for row in rows if row.is_wrong],
    }


def _add_memory(case: Case, found: dict[str, Any], labels: Sequence[str], options: Options, quick: bool) -> None:
    """Peaks of all sides, each in a process of its own on the CPU."""
    peaks: dict[str, int] = {}
    for label in labels:
        if options.torch_device.type == 'cuda':
            peaks[label] = peak_of_case(case.name, label, quick=quick, options=options)
        else:
            arguments = dict(
                kind='side', case=case.name, label=label, quick=quick, options=asdict(options),
                threads=torch.get_num_threads(),
            )  # fmt: skip
            peaks[label] = in_child(arguments)['peak_bytes']
    for row in found['rows']:
        row['peak_bytes'] = peaks[row['label']]
    theirs = [peaks[label] for label in labels[1:] if label != WINOGRAD]
    found['reached'][MEMORY] = peaks[labels[0]] / min(theirs)


def peak_of_case(name: str, label: str, *, quick: bool, options: Options) -> int:
    """Peak memory of one side of a case, in this process."""
    case = CASES[name]
    sides, models, work = _sides(case, options, quick, labels=[label])
    index = [side.label for side in sides].index(label)
    side, model = sides[index], models[index]
    del sides, models
    if case.options.get('out_size'):
        work = _with_out_size(case, work, quick)
        side = replace(side, run=work.runner(model))
    return peak_of_side(side, model, work)


# ----------------------------------------------------------------------------------------------- detectors
def _check_counts(case: Case, model: nn.Module, work: Work, quick: bool) -> None:
    """A detector has to have as many proposals and detections as the case says."""
    expected = case.options.get('counts')
    if not expected or quick or work.train:
        return
    with torch.inference_mode():
        samples = work.samples()
        maps = model.extract_feat(work.x)
        proposals = len(model.rpn_head.predict(maps, samples, rescale=False)[0])
        detections = len(work.outputs(model)['scores'])
    if (proposals, detections) != tuple(expected):
        raise UserError(
            f'{case.name}: {proposals} proposals and {detections} detections instead of {expected[0]} and '
            f'{expected[1]}: other random numbers need other gains in densevit/benchmark/cases.py.'
        )


# ----------------------------------------------------------------------------------------- UPerHead alone
def _measure_head(case: Case, options: Options, quick: bool) -> dict[str, Any]:
    """mmsegmentation's UPerHead and ours, on the maps of a Swin-T."""
    size = _size(case, quick)
    spec = _spec(case)
    model = _build(case, spec)
    models = {'densevit': model, WINOGRAD: winograd_twin(case, model)}
    peer = peers_of('mmseg', spec, model, size)[0]
    device = options.torch_device
    work = Work(spec, size, dtype=options.dtype, device=device)
    with torch.inference_mode():
        maps = model.backbone.to(device)(work.x)
    heads = {label: fold(model.decode_head.to(device)) for label, model in models.items()}
    heads['mmseg'] = fold_peer(peer.model.decode_head.to(device))
    if options.compile:
        heads = {label: compile_parts(_AsBackbone(head), device, train=False).head for label, head in heads.items()}

    def forward(head: nn.Module) -> Tensor:
        with torch.inference_mode(), work.context():
            return head(maps)

    sides = [
        Side(label, lambda head=head: forward(head), lambda head=head: {'logits': forward(head)})
        for label, head in heads.items()
    ]
    rows = duel(
        sides, dtype=options.dtype, rounds=options.rounds, warmups=options.warmups, clock=timer(device),
        tolerance=options.tolerance_of(False),
    )  # fmt: skip
    return {**_reached(case, rows), 'conditions': {'size': list(size), 'batch': 1, 'train': False,
                                                   'dtype': options.dtype}}  # fmt: skip


class _AsBackbone(nn.Module):
    """A head for :func:`compile_parts`."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = self.decode_head = head
        self.backbone = None


# ---------------------------------------------------------------------------------------------- evaluation
@contextlib.contextmanager
def _silent() -> Any:
    """Without the tables that metrics print."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _label_maps(count: int, size: tuple[int, int], classes: int, distinct: int) -> list[dict[str, Any]]:
    """Predictions and truths as mmsegmentation's data samples have them, as dictionaries; ``distinct`` of them."""
    numbers = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(min(count, distinct)):
        coarse = torch.randint(classes, (1, 1, size[0] // 16, size[1] // 16), generator=numbers).float()
        truth = torch.nn.functional.interpolate(coarse, size=size, mode='nearest')[0].long()
        noise = torch.randint(classes, truth.shape, generator=numbers)
        pred = torch.where(torch.rand(truth.shape, generator=numbers) < 0.3, noise, truth)
        truth[:, :8] = 255
        samples.append({'pred_sem_seg': {'data': pred}, 'gt_sem_seg': {'data': truth}, 'img_path': 'generated'})
    return [samples[index % len(samples)] for index in range(count)]


def _measure_iou(case: Case, options: Options, quick: bool) -> dict[str, Any]:
    from mmseg.evaluation.metrics import IoUMetric as MmsegIoUMetric

    from ..evaluation.iou import IoUMetric

    count, size, classes = (6, (64, 96), 150) if quick else (200, (512, 683), 150)
    samples = _label_maps(count, size, classes, 20)
    meta = {'classes': tuple(f'class {index}' for index in range(classes))}
    metrics = {'densevit': IoUMetric(), 'mmseg': MmsegIoUMetric()}
    for metric in metrics.values():
        metric.dataset_meta = meta

    def evaluate(metric: Any) -> dict[str, float]:
        with _silent():
            for sample in samples:
                metric.process(None, [sample])
            return metric.evaluate(count)

    def outputs(metric: Any) -> dict[str, Tensor]:
        # mmsegmentation rounds to two digits
        found = evaluate(metric)
        return {key: torch.tensor(round(found[key], 2), dtype=torch.float64) for key in ('aAcc', 'mIoU', 'mAcc')}

    sides = [
        Side(label, lambda m=metric: evaluate(m), lambda m=metric: outputs(m)) for label, metric in metrics.items()
    ]
    rows = duel(sides, dtype='float32', rounds=options.rounds, warmups=1, tolerance=2e-4)
    found = _reached(case, rows)
    expected = _counted(samples, classes)
    exact = evaluate(metrics['densevit'])
    apart = max(abs(exact[key] - expected[key]) for key in expected)
    if apart > 1e-9:
        found['wrong'].append('densevit')
    found['notes'] = [f'largest difference to an int64 count: {apart:.1e} percent']
    return found


def _counted(samples: Sequence[dict[str, Any]], classes: int) -> dict[str, float]:
    """mIoU and its like by numpy, in int64, class by class."""
    matrix = np.zeros((classes, classes), np.int64)
    for sample in samples:
        pred, truth = (sample[key]['data'].numpy().ravel() for key in ('pred_sem_seg', 'gt_sem_seg'))
        kept = truth != 255
        np.add.at(matrix, (truth[kept], pred[kept]), 1)
    hits, labelled, predicted = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    with np.errstate(invalid='ignore', divide='ignore'):
        return {
            'aAcc': 100 * hits.sum() / labelled.sum(),
            'mIoU': 100 * float(np.nanmean(hits / (labelled + predicted - hits))),
            'mAcc': 100 * float(np.nanmean(hits / labelled)),
        }


def _coco_by_ours(annotations: dict, detections: list[dict], iou_type: str) -> Sequence[float]:
    from faster_coco_eval import COCO

    from ..evaluation.coco import coco_evaluate

    return coco_evaluate(COCO(annotations), detections, iou_type).stats


def _coco_by_pycocotools(annotations: dict, detections: list[dict], iou_type: str) -> Sequence[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = annotations
    truth.createIndex()
    run = COCOeval(truth, truth.loadRes(detections), iou_type)
    run.evaluate()
    run.accumulate()
    run.summarize()
    return run.stats


_COCO_EVALUATIONS = {'densevit': _coco_by_ours, 'pycocotools': _coco_by_pycocotools}


def _keep(
    found: dict[str, Tensor], iou_type: str, evaluate: Callable, annotations: dict, detections: list[dict]
) -> None:
    found[iou_type] = torch.tensor([float(x) for x in evaluate(annotations, detections, iou_type)], dtype=torch.float64)


def _measure_coco(case: Case, options: Options, quick: bool) -> dict[str, Any]:
    """From annotations and results to the 12 statistics of boxes and of masks; ours before and after pycocotools."""
    from .generated_coco import generated_coco

    num_images, classes, truths, each = QUICK_COCO if quick else (5000, 80, 36_000, 100)
    annotations, *results = generated_coco(num_images, classes, truths, each, seed=0)
    small, boxes, _ = generated_coco(4, 2, 8, 5, seed=0)
    with _silent():
        for evaluate in _COCO_EVALUATIONS.values():
            evaluate(copy.deepcopy(small), [dict(box) for box in boxes], 'bbox')
    clock = timer(torch.device('cpu'))
    seconds: dict[str, list[float]] = {'densevit': [], 'pycocotools': []}
    stats: dict[str, dict[str, Tensor]] = {}
    for label in ('densevit', 'pycocotools', 'densevit'):
        evaluate, taken, found = _COCO_EVALUATIONS[label], 0.0, {}
        for iou_type, detections in zip(('bbox', 'segm'), results, strict=True):
            given = [dict(detection) for detection in detections]  # they are changed in place
            run = functools.partial(_keep, found, iou_type, evaluate, copy.deepcopy(annotations), given)
            with _silent():
                taken += clock(run)
            del given, run
            gc.collect()
        seconds[label].append(taken)
        stats[label] = found
    difference = compare(stats['densevit'], stats['pycocotools'])
    ours, theirs = (Timing(tuple(seconds[label])) for label in ('densevit', 'pycocotools'))
    same = difference.within('float64', 1e-12)
    ratio = theirs.median / ours.median if same else None
    rows = [Row('densevit', ours), Row('pycocotools', theirs, difference, ratio)]
    return _reached(case, rows)


# ---------------------------------------------------------------------------------------------- label maps
def _with_out_size(case: Case, work: Work, quick: bool) -> Work:
    return replace(work, out_size=(300, 400) if quick else case.options['out_size'])


def _measure_label_map(case: Case, options: Options, quick: bool) -> dict[str, Any]:
    """Peaks in child processes, and one comparison of the label maps here."""
    sides, models, work = _sides(case, options, quick)
    work = _with_out_size(case, work, quick)
    sides = [
        replace(side, run=work.runner(model), outputs=functools.partial(_label_map_of, work, model))
        for side, model in zip(sides, models, strict=True)
    ]
    rows = duel(sides, dtype='float32', rounds=1 if quick else 3, warmups=0)
    found = _reached(case, rows)
    labels = [side.label for side in sides]
    del sides, models, work
    gc.collect()
    _add_memory(case, found, labels, options, quick)
    return found


def _label_map_of(work: Work, model: nn.Module) -> dict[str, Tensor]:
    return {'label_map': torch.stack([result.pred_sem_seg.data for result in work.forward(model)])}


# ----------------------------------------------------------------------------------------------- the table
def _model_case(name: str, work: str, peer: str, goals: Mapping[str, float], rounds: int = 9, **options: Any) -> Case:
    return Case(name, work, peer, goals, _measure_models, rounds, {'packages': (peer,), **options})


_SWIN = ('mmseg', 'mmdet', 'timm', 'transformers', 'torchvision')
_512 = dict(size=(512, 512))
# So that some classes are likely, as they are for a trained detector: there are 100 detections with a score above 0.05.
_GAINS = {r'roi_head\.bbox_head\.fc_cls\.weight': 2.0}
_COUNTS = (1000, 100)

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        _model_case(
            'uper_swin_t', 'UperNet Swin-T, 512 x 512, batch 1, image to label map', 'mmseg',
            {EXACT: 1.6, WINOGRAD: 2.0}, model='upernet_swin_ade20k', **_512,
        ),
        _model_case(
            'uper_s60', 'UperNet PatchConvNet-S60, 512 x 512, batch 1, image to label map', 'mmseg',
            {EXACT: 1.6, WINOGRAD: 2.0}, model='upernet_patchconvnet_ade20k', **_512,
        ),
        Case(
            'uper_head', 'UPerHead alone, 512 channels, 150 classes, maps of 512 x 512 pixels', 'mmseg',
            {EXACT: 1.65, WINOGRAD: 2.1}, _measure_head, 9, dict(model='upernet_swin_ade20k', **_512),
        ),
        _model_case(
            'train_uper_swin_t', 'UperNet Swin-T training step, batch 2, 512 x 512, with AdamW', 'mmseg',
            {RATIO: 1.4, MEMORY: 0.7}, 5, model='upernet_swin_ade20k', batch=2, train=True, **_512,
        ),
        _model_case(
            'swin_t', 'Swin-T forward, 512 x 512', 'mmseg, mmdet, timm, transformers, torchvision', {RATIO: 1.3},
            model='densevit.SwinTransformer:T', packages=_SWIN, **_512, quick_size=(256, 320),
        ),
        _model_case(
            'swin_t_448', 'Swin-T forward, 448 x 448, where timm computes the same', 'all of them', {},
            model='densevit.SwinTransformer:T', packages=_SWIN, size=(448, 448), quick_size=(448, 448),
        ),
        _model_case(
            'swin_v2_t', 'Swin V2-T forward, 512 x 512', 'timm, transformers, torchvision', {RATIO: 1.5},
            model='densevit.SwinTransformerV2:T', packages=('timm', 'transformers', 'torchvision'), **_512,
            quick_size=(512, 512),
        ),
        _model_case(
            'pvt_small', 'PVT-small forward, 512 x 512', 'mmdet, transformers', {RATIO: 1.4},
            model='densevit.PyramidVisionTransformer:small,img_size=512', packages=('mmdet', 'transformers'), **_512,
            quick_size=(512, 512),
        ),
        _model_case(
            'pvt_v2_b2', 'PVT v2-b2 forward, 512 x 512', 'mmdet, timm, transformers', {RATIO: 1.3},
            model='densevit.PyramidVisionTransformerV2:b2', packages=('mmdet', 'timm', 'transformers'), **_512,
        ),
        _model_case(
            'cvt_13', 'CvT-13 forward, 384 x 384', 'transformers', {RATIO: 1.4}, model='densevit.CvT:13',
            size=(384, 384),
        ),
        _model_case(
            's60', 'PatchConvNet-S60 forward, 512 x 512', 'plain', {RATIO: 1.3}, model='densevit.PatchConvNet:S60',
            **_512,
        ),
        _model_case(
            'mask_rcnn_swin_t', 'Mask R-CNN Swin-T, 800 x 1216, batch 1, image to masks in RLE, 1000 proposals, '
            '100 detections', 'mmdet', {RATIO: 1.4}, 7, model='mask_rcnn_swin_coco', size=(800, 1216), gains=_GAINS,
            counts=_COUNTS,
        ),
        _model_case(
            'train_mask_rcnn_swin_t', 'Mask R-CNN Swin-T training step, batch 1, 800 x 1216, with AdamW', 'mmdet',
            {RATIO: 1.2, MEMORY: 0.8}, 5, model='mask_rcnn_swin_coco', train=True, size=(800, 1216),
            quick_size=(256, 320), exactly=1e-6,  # mmdet crops the truth's masks in float32
        ),
        Case(
            'iou_metric', 'mIoU over 200 images of 512 x 683, 150 classes', 'mmseg', {RATIO: 3.0}, _measure_iou, 5,
        ),
        Case(
            'coco_metric', 'COCO boxes and masks: 5,000 generated images, 80 classes, 36,000 truths, 100 detections '
            'each', 'pycocotools', {RATIO: 3.0}, _measure_coco, 1,
        ),
        Case(
            'label_map_memory', 'label map of 1500 x 2000 from 150 classes, UperNet Swin-T, image of 512 x 683',
            'mmseg', {MEMORY: 0.15}, _measure_label_map, 3,
            dict(model='upernet_swin_ade20k', packages=('mmseg',), size=(512, 683), out_size=(1500, 2000)),
        ),
    )
}  # fmt: skip
