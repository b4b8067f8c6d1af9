"""The class attention head on maps whose truth is known."""

from __future__ import annotations

import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData

from densevit.heads.class_attention import ClassAttentionHead, random_rectangles

CHANNELS, CLASSES, SIZE, STRIDE = 16, 3, (20, 36), 4


def head(**options) -> ClassAttentionHead:
    made = ClassAttentionHead(CHANNELS, CLASSES, **{'stride': STRIDE, **options})
    made.init_weights()
    return made


def sample(labels: torch.Tensor, **meta) -> BaseDataElement:
    size = tuple(labels.shape[-2:])
    return BaseDataElement(
        metainfo={'img_shape': size, 'ori_shape': size, **meta}, gt_sem_seg=PixelData(data=labels[None])
    )


def scenes(count: int) -> tuple[torch.Tensor, list[BaseDataElement]]:
    """Maps whose first channels are the class of the patch, beside noise. Class 0 is in every image."""
    classes = torch.zeros(count, SIZE[0] // STRIDE, SIZE[1] // STRIDE, dtype=torch.long)
    for each in classes:
        for label in (1, 2):
            if torch.rand(()) < 0.7:
                row, column = torch.randint(4, ()), torch.randint(7, ())
                each[row : row + 2, column : column + 2] = label
    maps = torch.randn(count, CHANNELS, *classes.shape[1:])
    maps[:, :CLASSES] += 4 * torch.nn.functional.one_hot(classes, CLASSES).permute(0, 3, 1, 2)
    labels = classes.repeat_interleave(STRIDE, 1).repeat_interleave(STRIDE, 2)
    return maps, [sample(each) for each in labels]


def test_shapes_and_sums():
    model = head(num_heads=2)
    x = torch.randn(2, CHANNELS, 5, 9)
    logits, maps = model(x)
    assert logits.shape == (2, 1, CLASSES) and maps.shape == (2, 1, CLASSES, 5, 9)
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 1, CLASSES))
    regions = torch.zeros(2, 2, 5, 9, dtype=torch.bool)
    regions[:, 0, 1:3, 2:8] = regions[:, 1, 4, 0] = True
    logits, maps = model(x, regions)
    assert logits.shape == (2, 2, CLASSES)
    assert not maps[~regions[:, :, None].expand_as(maps)].any()
    torch.testing.assert_close(maps.sum((-2, -1)), torch.ones(2, 2, CLASSES))


def test_a_region_is_all_that_is_seen():
    model, x = head(), torch.randn(1, CHANNELS, 5, 9)
    regions = torch.zeros(1, 1, 5, 9, dtype=torch.bool)
    regions[:, :, 1:4, 2:6] = True
    logits, maps = model(x, regions)
    other, other_maps = model(torch.where(regions[:, 0, None], x, torch.randn_like(x)), regions)
    assert torch.equal(logits, other) and torch.equal(maps, other_maps)
    alone, alone_maps = model(x[:, :, 1:4, 2:6])
    torch.testing.assert_close(logits, alone)
    torch.testing.assert_close(maps[..., 1:4, 2:6], alone_maps)


def test_logit_k_is_made_by_vector_k():
    model = head()
    logits, _ = model(torch.randn(1, CHANNELS, 4, 4))
    (gradient,) = torch.autograd.grad(logits[0, 0, 1], model.aggregation.cls_token)
    assert gradient[0, 1].any() and not gradient[0, [0, 2]].any()


def test_it_learns_where_classes_are_that_are_in_every_image():
    torch.manual_seed(0)
    model = head()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(150):
        maps, samples = scenes(8)
        loss = model.loss(maps, samples, SIZE)['loss_presence']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    maps, samples = scenes(20)
    energy = {label: [] for label in range(CLASSES)}
    with torch.no_grad():
        predicted = model.predict(maps, [each.metainfo for each in samples], SIZE)
    for found, each in zip(predicted, samples):
        upsampled = found.upsampled()
        labels = each.gt_sem_seg.data[0]
        for label in labels.unique().tolist():
            energy[label].append(float((upsampled[label] * (labels == label)).sum() / upsampled[label].sum()))
    assert min(sum(each) / len(each) for each in energy.values()) > 0.7


def test_absent_classes_do_not_teach_where_to_look():
    """Attention that learnt from them would look for what speaks against a class, and show where it is not."""
    model = head(num_regions=0)
    x = torch.randn(1, CHANNELS, 5, 9)
    model.loss(x, [sample(torch.full(SIZE, 2))], SIZE)['loss_presence'].backward()
    # k is shared by all classes, the queries' part of the score is not
    regions = torch.ones(1, 1, 5, 9, dtype=torch.bool)
    present = torch.tensor([[[False, False, True]]])
    for label in range(CLASSES):
        logits, _ = model(x, regions, present)
        (gradient,) = torch.autograd.grad(logits[0, 0, label], model.aggregation.attn.k.weight)
        assert bool(gradient.any()) == (label == 2)


def test_gradients():
    """Every parameter takes one, as DDP wants it, and the backbone unless it is spared."""
    for detach in (False, True):
        model = head(detach=detach)
        maps, samples = scenes(2)
        maps.requires_grad_()
        model.loss(maps, samples, SIZE)['loss_presence'].backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert (maps.grad is None) is detach


def test_without_any_class():
    """What nobody has labelled may be of any class: nothing is learned from it."""
    model = head()
    loss = model.loss(torch.randn(1, CHANNELS, 5, 9), [sample(torch.full(SIZE, 255))], SIZE)['loss_presence']
    loss.backward()
    assert loss == 0
    assert all((parameter.grad == 0).all() for parameter in model.parameters())


def test_too_little_to_decide_is_not_asked():
    """One pixel of a class: neither present nor absent."""
    labels = torch.zeros(SIZE, dtype=torch.long)
    labels[0, 0] = 1
    model, x = head(num_regions=0, min_share=0.25), torch.randn(1, CHANNELS, 5, 9)
    logits = model(x)[0][0, 0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits[[0, 2]], torch.tensor([1.0, 0]))
    torch.testing.assert_close(model.loss(x, [sample(labels)], SIZE)['loss_presence'], expected)


def test_padding_is_not_looked_at():
    model, x = head(), torch.randn(1, CHANNELS, 5, 9)
    meta = dict(img_shape=(12, 22), ori_shape=(24, 44))
    (found,) = model.predict(x, [meta], SIZE)
    (other,) = model.predict(torch.where(torch.arange(9) < 6, x, 99) * (torch.arange(5)[:, None] < 3), [meta], SIZE)
    assert found.maps.shape == (CLASSES, 3, 6)
    assert torch.equal(found.maps, other.maps) and torch.equal(found.presence, other.presence)
    torch.testing.assert_close(found.maps.sum((1, 2)), torch.ones(CLASSES))
    assert found.rows.tolist() == [0, 8, 16, 24]
    assert found.columns.tolist() == [0, 8, 16, 24, 32, 40, 44]
    assert found.upsampled([2, 0]).shape == (2, 24, 44)


@pytest.mark.parametrize(('direction', 'axes'), [('horizontal', [2]), ('vertical', [1]), ('diagonal', [1, 2])])
def test_flips_are_undone(direction, axes):
    """A flipped input has the padding of the batch at its right and bottom all the same."""
    model, x = head(), torch.randn(1, CHANNELS, 3, 6)
    size, padded = (12, 22), (16, 32)
    (plain,) = model.predict(x, [dict(img_shape=size, ori_shape=size)], size)
    flipped = torch.nn.functional.pad(x.flip([axis + 1 for axis in axes]), (0, 2, 0, 1))
    meta = dict(img_shape=size, ori_shape=size, flip=True, flip_direction=direction)
    (found,) = model.predict(flipped, [meta], padded)
    torch.testing.assert_close(found.maps, plain.maps)
    assert (found.rows[0], found.rows[-1], found.columns[0], found.columns[-1]) == (0, 12, 0, 22)


def test_attention_moves_as_data():
    (found,) = head().predict(torch.randn(1, CHANNELS, 5, 9), [{}], SIZE)
    moved = found.to('cpu').detach()
    assert moved.ori_shape == SIZE and torch.equal(moved.maps, found.maps)
    assert sorted(found.to_dict()) == ['columns', 'maps', 'ori_shape', 'presence', 'rows']


def test_rectangles():
    valid = torch.zeros(2, 5, 9, dtype=torch.bool)
    valid[0, :3, :7] = valid[1, 2:, 1:] = True
    present = torch.zeros(2, CLASSES, 5, 9, dtype=torch.bool)
    present[0, 0] = True
    present[0, 1, 1, 5] = True
    found = random_rectangles(valid, present, 400)
    assert found.shape == (2, 400, 5, 9)
    assert not (found & ~valid[:, None]).any()
    rows, columns = found.any(3).sum(2), found.any(2).sum(2)
    assert torch.equal(found.sum((2, 3)), rows * columns) and (rows * columns > 0).all()
    assert set(rows[0].tolist()) == {1, 2, 3} and set(columns[1].tolist()) == set(range(1, 9))
    assert (found.any(1) == valid).all()
    assert found[0, :, 1, 5].float().mean() > 0.5  # the rare class


@pytest.mark.parametrize(('options', 'message'), [
    (dict(min_share=0), 'min_share=0'),
    (dict(min_share=1.5), 'min_share=1.5'),
    (dict(num_regions=-1), 'num_regions=-1'),
    (dict(num_heads=3), 'embed_dims=16'),
])  # fmt: skip
def test_what_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        head(**options)
