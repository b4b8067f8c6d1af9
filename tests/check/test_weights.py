"""Weights that are not there, cannot be read, or are another model's are named before training; nothing is loaded."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.check.estimates import estimate_disk, estimate_memory, training_size  # noqa: E402
from densevit.check.model import build_on_meta, training_pass  # noqa: E402
from densevit.check.weights import weight_findings  # noqa: E402
from densevit.config.reading import read_config  # noqa: E402
from tests.check.test_planted import SEG, assert_found, planted  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

SMALL = {'model.backbone.arch.depth': 2, 'model.decode_head.channels': 8}


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


@pytest.fixture(scope='module')
def tensors() -> dict[str, torch.Tensor]:
    """The weights of the small model."""
    cfg = planted(SEG, SMALL)
    with scope_restored(), DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(copy.deepcopy(cfg.model)).state_dict()


def found(options: dict, checkpoint: str | None = None):
    cfg = planted(SEG, {**SMALL, **options})
    model, reasons = build_on_meta(cfg)
    assert reasons == []
    return list(weight_findings(cfg, model, checkpoint))


def saved(content: object, path: Path) -> str:
    torch.save(content, path)
    return str(path)


def test_weights_that_fit_are_a_note(tensors, tmp_path):
    (each,) = found({'load_from': saved({'state_dict': tensors}, tmp_path / 'a.pth')})
    assert (each.level, each.kind) == ('note', 'weights') and f'loaded {len(tensors)} of {len(tensors)}' in each.message
    (each,) = found({}, checkpoint=saved(tensors, tmp_path / 'b.pth'))
    assert (each.level, each.place) == ('note', 'CHECKPOINT')


def renamed(tensors):
    return {f'other.{name}': each for name, each in tensors.items()}


def wider(tensors):
    return {name: each.repeat_interleave(2, 0) if each.ndim else each for name, each in tensors.items()}


def few(tensors):
    return dict(list(tensors.items())[:2])


def other_classes(tensors):
    return {name: each[:3] if name.startswith('decode_head.conv_seg') else each for name, each in tensors.items()}


def infinite(tensors):
    first = next(name for name, each in tensors.items() if each.is_floating_point())
    return {**tensors, first: torch.full_like(tensors[first], torch.inf)}


def zero(tensors):
    return {name: torch.zeros_like(each) for name, each in tensors.items()}


@pytest.mark.parametrize(
    ('change', 'kind', 'words'),
    [
        (renamed, 'weights-do-not-fit', ('other.', 'same model')),
        (wider, 'weights-do-not-fit', ('of another shape', 'instead of')),
        (few, 'weights-do-not-fit', ('missing', 'Nothing was loaded')),
        (other_classes, 'weights-of-other-classes', ('decode_head.conv_seg', '--new-classes')),
        (infinite, 'weights-not-finite', ('NaN or infinity', '1 tensors')),
        (zero, 'weights-all-zero', ('are zero',)),
    ],
)
def test_weights_of_another_model(tensors, tmp_path, change, kind, words):
    path = saved(change(tensors), tmp_path / 'weights.pth')
    assert_found(found({'load_from': path}), kind, 'error', path, *words)


def test_a_file_that_is_no_checkpoint(tensors, tmp_path):
    assert_found(found({'load_from': 'no/such.pth'}), 'weights-not-found', 'error', "'no/such.pth'", 'give the path')
    page = tmp_path / 'page.pth'
    page.write_text('<html>not found</html>')
    assert_found(found({'load_from': str(page)}), 'weights-unreadable', 'error', '<html', 'download')
    whole = Path(saved(tensors, tmp_path / 'cut.pth'))
    whole.write_bytes(whole.read_bytes()[:-5000])
    assert_found(found({'load_from': str(whole)}), 'weights-unreadable', 'error', 'cut.pth', 'is it whole')
    assert_found(
        found({'load_from': saved({'a': 1}, tmp_path / 'no.pth')}), 'weights-unreadable', 'error', 'no tensors'
    )


class Code:
    """What a pickle can hold."""

    def __reduce__(self):
        return (print, ('ran',))


def test_a_checkpoint_that_would_run_code(tensors, tmp_path, capsys):
    path = saved({'state_dict': tensors, 'meta': Code()}, tmp_path / 'code.pth')
    assert_found(found({'load_from': path}), 'weights-would-run-code', 'error', path, '--trust-checkpoint')
    assert 'ran' not in capsys.readouterr().out


def test_a_hash_that_is_not_the_file_s(tensors, tmp_path):
    path = saved(tensors, tmp_path / 'weights.pth')
    given = dict(type='densevit.Pretrained', checkpoint=path, sha256='0123456789')
    assert_found(found({'model.backbone.init_cfg': given}), 'weights-hash', 'error', '0123456789', 'another file')


def test_init_cfg(tensors, tmp_path):
    path = saved(tensors, tmp_path / 'weights.pth')
    given = dict(type='densevit.Pretrained', checkpoint=path)
    (each,) = found({'model.backbone.init_cfg': given})
    assert (each.level, each.kind, each.place) == ('note', 'weights', 'model.backbone.init_cfg')
    wrong = {**given, 'prefix': 'model.'}
    assert_found(
        found({'model.backbone.init_cfg': wrong}), 'weights-do-not-fit', 'error', "'model.'", 'leave prefix out'
    )
    both = {'model.backbone.init_cfg': given, 'load_from': path}
    assert_found(found(both), 'weights-twice', 'note', path, 'give one of them')


def test_mm_parts_load_in_silence_what_fits(tensors, tmp_path):
    path = saved(tensors, tmp_path / 'whole.pth')
    given = dict(type='Pretrained', checkpoint=path)
    options = {'model.decode_head.type': 'UPerHead', 'model.decode_head.init_cfg': given}
    assert_found(found(options), 'weights-do-not-fit', 'error', '0% loaded', 'same model')
    named = {**tensors, **{name.removeprefix('decode_head.'): each for name, each in tensors.items()}}
    (each,) = found(
        {**options, 'model.decode_head.init_cfg': {**given, 'checkpoint': saved(named, tmp_path / 'h.pth')}}
    )
    assert (each.level, each.kind) == ('note', 'weights')
    # of all but one
    del named['conv_seg.weight']
    part = {**given, 'checkpoint': saved(named, tmp_path / 'p.pth')}
    assert_found(
        found({**options, 'model.decode_head.init_cfg': part}), 'weights-in-part', 'warning', 'conv_seg.weight'
    )


def test_load_from_resume_and_pretrained_are_told_apart(tensors, tmp_path):
    weights = saved({'state_dict': tensors}, tmp_path / 'weights.pth')
    assert_found(found({'resume': weights}), 'resume-is-a-path', 'error', weights, 'resume=True', '--resume')
    assert_found(found({'load_from': True}), 'weights-not-found', 'error', 'load_from=True', 'resume=True')
    resumed = {'load_from': weights, 'resume': True}
    assert_found(found(resumed), 'resume-without-state', 'error', weights, 'resume=False')
    run = tmp_path / 'run'
    run.mkdir()
    state = {'state_dict': tensors, 'optimizer': {'state': {1: 2}}, 'message_hub': {'log': 1}}
    own = {'load_from': saved(state, run / 'iter_1.pth'), 'work_dir': str(run)}
    assert_found(found(own), 'load-from-instead-of-resume', 'warning', 'iter_1.pth', '--resume')
    assert [each.level for each in found({**own, 'resume': True})] == ['note']
    for options in ({}, {'model.init_cfg': dict(type='TruncNormal')}):
        cfg = planted(SEG, {'model.pretrained': weights, **options})
        given = list(weight_findings(cfg, None))
        assert_found(given, 'pretrained', 'error', weights, "model.backbone.init_cfg=dict(type='densevit.Pretrained'")


def test_urls_are_not_fetched(monkeypatch):
    monkeypatch.setattr('densevit.checkpoints.read.local_file', lambda *args, **options: 1 / 0)
    assert_found(found({'load_from': 'https://no.such/a.pth'}), 'weights-not-here', 'note', 'https://no.such/a.pth')


def test_a_frozen_backbone_of_random_weights():
    assert_found(found({'model.backbone.frozen_stages': 1}), 'frozen-random-weights', 'warning', 'frozen_stages=1')


# ---------------------------------------------------------------------------------------------------- estimates
def test_memory_and_disk():
    cfg = planted(SEG, SMALL)
    model, _ = build_on_meta(cfg)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert training_size(cfg) == (256, 256)
    saved_bytes = training_pass(cfg, model, 8, (256, 256)).saved
    # all of it grows with the images, but the statistics of the norms
    assert training_pass(cfg, model, 16, (256, 256)).saved == pytest.approx(2 * saved_bytes, rel=0.01)
    memory = estimate_memory(cfg, model, saved_bytes, (256, 256))
    assert memory.optimizer == 8 * count and memory.gradients == 4 * count and memory.batch == 8
    assert memory.total == memory.parameters + memory.optimizer + saved_bytes
    cfg.custom_hooks = [dict(type='EMAHook')]
    cfg.default_hooks.checkpoint.max_keep_ckpts = -1
    disk = estimate_disk(cfg, model)
    assert disk.checkpoint == pytest.approx(16 * count, rel=0.01)
    assert disk.count == 4 + 1 + 1  # 6000 / 1500, the best, and the new one


def test_what_autograd_keeps_is_what_it_keeps():
    """The estimate, made without values, is that of a real pass."""
    cfg = planted(SEG, {**SMALL, 'model.neck.norm_cfg': dict(type='BN'), 'train_dataloader.batch_size': 2})
    expected = training_pass(cfg, build_on_meta(cfg)[0], 2, (64, 96)).saved
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    from densevit.check.model import _forward, _Saved

    real = _Saved(model)
    with real.counting():
        outputs = _forward(model, torch.rand(2, 3, 64, 96))
    del outputs
    # kernels of the CPU keep a little less of attention and norms than the general ones
    assert real.bytes < expected < 1.3 * real.bytes


def test_too_little_room(monkeypatch, tmp_path):
    import shutil

    cfg = read_config(SEG)
    cfg.work_dir = str(tmp_path / 'not' / 'there')
    model, _ = build_on_meta(cfg)
    usage = type(shutil.disk_usage('/'))
    for free, level, words in (
        (10**5, 'error', ('not even the first', '--work-dir')),
        (10**7 + 5 * 10**6, 'warning', ('3 checkpoints', 'max_keep_ckpts')),
        (10**9, 'note', ('3 checkpoints',)),
    ):
        monkeypatch.setattr(shutil, 'disk_usage', lambda path, free=free: usage(10**12, 10**12 - free, free))
        disk = estimate_disk(cfg, model)
        assert disk.folder == str(tmp_path)
        assert_found(list(disk.findings()), 'disk', level, *words)


def test_too_little_memory(monkeypatch):
    from densevit.check import estimates

    cfg = read_config(SEG)
    model, _ = build_on_meta(cfg)
    monkeypatch.setattr(estimates, '_available', lambda: 10**6)
    memory = estimate_memory(cfg, model, 2 * 10**9, (256, 256))
    assert_found(list(memory.findings()), 'memory', 'warning', '8 images of 256 x 256', '--accumulate', '--amp')
