"""UPerHead against mmsegmentation's, with the same weights."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import densevit

mmseg_heads = pytest.importorskip('mmseg.models.decode_heads')
pytestmark = pytest.mark.filterwarnings('ignore')

PYRAMIDS = {
    'even': [(16, 24), (8, 12), (4, 6), (2, 3)],
    'odd': [(33, 17), (17, 9), (9, 5), (5, 3)],
    'flat': [(1, 9), (1, 5), (1, 3), (1, 2)],
    'one size': [(6, 8)] * 4,
    'coarse first': [(4, 5), (8, 10), (2, 3), (3, 3)],
}
CHANNELS = (3, 4, 5, 6)


def heads(head=None, **options):
    """Mmsegmentation's head and ours, with the same weights, as after training."""
    options = {'norm_cfg': dict(type='BN'), 'dropout_ratio': 0.3, **options}
    cfg = dict(in_channels=CHANNELS, in_index=(0, 1, 2, 3), channels=8, num_classes=7, **options)
    theirs = mmseg_heads.UPerHead(**{key: value for key, value in cfg.items() if key != 'winograd'}).double()
    for name, tensor in theirs.state_dict().items():
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 2) if 'var' in name else nn.init.normal_(tensor, std=0.3)
    ours = (head or densevit.UPerHead)(**cfg).double()
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


def maps(sizes, batch=2):
    return [torch.randn(batch, c, *size, dtype=torch.float64) for c, size in zip(CHANNELS, sizes, strict=True)]


@pytest.mark.parametrize('batch', [1, 2])
@pytest.mark.parametrize('align_corners', [False, True])
@pytest.mark.parametrize('name', PYRAMIDS)
def test_same_logits(name, align_corners, batch):
    theirs, ours = heads(align_corners=align_corners)
    inputs = maps(PYRAMIDS[name], batch)
    before = copy.deepcopy(inputs)
    with torch.no_grad():
        expected = theirs(inputs)
        for found in (
            ours(inputs),
            densevit.fold(ours)(inputs),
            ours(inputs),  # from what is kept
            ours([x.contiguous(memory_format=torch.channels_last) for x in inputs]),
            densevit.unfold(ours)(inputs),
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
            assert found.is_contiguous()
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))
    torch.testing.assert_close(ours(inputs), expected, rtol=0, atol=1e-10)  # with gradients


@pytest.mark.parametrize(
    'options',
    [
        dict(norm_cfg=None),
        dict(norm_cfg=dict(type='GN', num_groups=2)),
        dict(act_cfg=dict(type='LeakyReLU')),
        dict(act_cfg=dict(type='GELU')),
        dict(act_cfg=None),
        dict(pool_scales=(1, 4)),
        dict(conv_cfg=dict(type='Conv2dAdaptivePadding')),
        dict(conv_cfg=dict(type='Conv')),
        dict(dropout_ratio=0),
    ],
    ids=str,
)
@pytest.mark.parametrize('folded', [False, True])
def test_same_logits_for_every_option(options, folded):
    theirs, ours = heads(**options)
    if folded:
        densevit.fold(ours)
    inputs = maps(PYRAMIDS['even'])
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=0, atol=1e-10)


@pytest.mark.parametrize('options', [{}, dict(norm_cfg=None), dict(act_cfg=dict(type='GELU'))], ids=str)
@pytest.mark.parametrize('name', ['even', 'odd'])
def test_same_training_step(name, options):
    pair = heads(**options)
    inputs = [x.requires_grad_() for x in maps(PYRAMIDS[name])]
    results = []
    for head in pair:
        torch.manual_seed(1)  # dropout drops the same channels
        logits = head.train()(inputs)
        target = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
        results.append([logits, *torch.autograd.grad(logits, [*inputs, *head.parameters()], target)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for expected, found in zip(pair[0].buffers(), pair[1].buffers(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize('folded', [False, True])
@pytest.mark.parametrize('name', PYRAMIDS)
def test_winograd(name, folded):
    theirs, ours = heads(functools.partial(densevit.UPerHead, winograd=True))
    if folded:
        densevit.fold(ours)
    inputs = maps(PYRAMIDS[name])
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=0, atol=1e-10)


@pytest.mark.parametrize('winograd, limit', [(False, 1.5), (True, 2.5)])
def test_rounding(winograd, limit):
    ratios = []
    for seed in range(5):
        torch.manual_seed(seed)
        theirs, ours = heads(functools.partial(densevit.UPerHead, winograd=winograd))
        inputs = maps(PYRAMIDS['even'])
        single = [x.float() for x in inputs]
        with torch.no_grad():
            exact = theirs(inputs)
            ratios.append(
                (densevit.fold(ours.float())(single) - exact).abs().max()
                / (densevit.fold(theirs.float())(single) - exact).abs().max()
            )
    assert torch.stack(ratios).median() <= limit


def test_subclasses_and_hooks_still_count():
    class Head(densevit.UPerHead):
        def psp_forward(self, inputs):
            return super().psp_forward(inputs) * 2

        def cls_seg(self, feat):
            return super().cls_seg(feat) + 1

    class Reference(mmseg_heads.UPerHead):
        psp_forward = lambda self, inputs: mmseg_heads.UPerHead.psp_forward(self, inputs) * 2  # noqa: E731
        cls_seg = lambda self, feat: mmseg_heads.UPerHead.cls_seg(self, feat) + 1  # noqa: E731

    theirs, ours = heads(Head)
    theirs.__class__ = Reference
    inputs, heard = maps(PYRAMIDS['even']), []
    for module in (ours.fpn_bottleneck, ours.fpn_convs[0].conv, ours.lateral_convs[1], ours.conv_seg):
        module.register_forward_hook(lambda module, args, out: heard.append(out.clone()) or None)
    with torch.no_grad():
        torch.testing.assert_close(densevit.fold(ours)(inputs), theirs(inputs), rtol=0, atol=1e-10)
    assert len(heard) == 4


def test_a_replaced_module_keeps_its_input():
    theirs, ours = heads()
    inputs = [torch.randn(1, 8, *size, dtype=torch.float64) for size in PYRAMIDS['even'][:3]]
    inputs = [*inputs, maps(PYRAMIDS['even'], 1)[3]]
    inputs = [x.contiguous(memory_format=torch.channels_last) for x in inputs]
    for head in (theirs, ours):
        head.lateral_convs = nn.ModuleList(nn.Identity() for _ in range(3))
    before = copy.deepcopy(inputs)
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=0, atol=1e-10)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


def test_checkpoint_and_copies():
    theirs, ours = heads(functools.partial(densevit.UPerHead, winograd=True))
    inputs = maps(PYRAMIDS['odd'], 1)
    with torch.inference_mode():
        expected = densevit.fold(ours)(inputs)
        assert torch.equal(copy.deepcopy(ours)(inputs), expected)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))


def test_parts_in_another_mode():
    theirs, ours = heads()
    inputs = maps(PYRAMIDS['even'])
    with torch.no_grad():
        densevit.fold(ours)(inputs)
        for head in (theirs, ours):
            head.fpn_bottleneck.train()
            head.dropout.train()
        torch.manual_seed(1)
        expected = theirs(inputs)
        torch.manual_seed(1)
        torch.testing.assert_close(ours(inputs), expected, rtol=0, atol=1e-10)


def test_a_config_changes_only_the_type():
    from mmseg.registry import MODELS

    cfg = dict(in_channels=CHANNELS, in_index=(0, 1, 2, 3), channels=8, num_classes=7, pool_scales=(1, 2))
    head = MODELS.build(dict(type='densevit.UPerHead', winograd=True, **cfg))
    assert isinstance(head, mmseg_heads.UPerHead) and head.winograd
    assert list(head.state_dict()) == list(MODELS.build(dict(type='UPerHead', **cfg)).state_dict())


def test_half_the_multiply_adds():
    """As the docstring says, at 512 x 512 and 512 channels; counted without computing."""
    counts = []
    cfg = dict(in_channels=(96, 192, 384, 768), in_index=(0, 1, 2, 3), channels=512, num_classes=150)
    for head in (mmseg_heads.UPerHead, densevit.UPerHead):
        with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as counter:
            inputs = [torch.empty(1, channels, 128 >> i, 128 >> i) for i, channels in enumerate(cfg['in_channels'])]
            head(**cfg).eval()(inputs)
        counts.append(counter.get_total_flops() / 2e9)
    assert counts[0] == pytest.approx(211, abs=1)
    assert counts[1] == pytest.approx(112, abs=3)


@pytest.mark.parametrize('folded', [False, True])
def test_compiles_without_a_break(folded):
    theirs, ours = heads()
    if folded:
        densevit.fold(ours)
    inputs = maps(PYRAMIDS['even'], 1)
    compiled = torch.compile(ours, fullgraph=True, backend='eager')
    with torch.no_grad():
        torch.testing.assert_close(compiled(inputs), theirs(inputs), rtol=0, atol=1e-10)
