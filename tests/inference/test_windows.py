"""Label maps from windows: which windows there are, and how much memory they take."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from densevit.inference.windows import labels_by_windows
from densevit.layers.label_map import ResizedMap, StoredMap, window_starts
from tests.fresh import run_forked


@pytest.mark.parametrize('size', [1, 5, 17, 40, 41, 100])
@pytest.mark.parametrize('window, stride', [(17, 17), (17, 9), (40, 1), (5, 4)])
def test_windows_cover_the_axis(size, window, stride):
    starts = window_starts(size, window, stride)
    assert starts == sorted(set(starts)) and starts[0] == 0
    assert starts[-1] + min(window, size) == size  # the last one ends with the axis
    assert all(after - before <= stride for before, after in zip(starts, starts[1:]))


def test_labels_are_of_the_mean_of_the_logits():
    torch.manual_seed(0)
    height, width, window, stride = 61, 47, (20, 24), (7, 11)
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    weight = torch.randn(5, 3)
    total, count = torch.zeros(5, height, width), torch.zeros(height, width)
    asked = []

    def logits_of(windows):
        asked.append(len(windows))
        small = [torch.from_numpy(each[::4, ::4].astype(np.float32)) @ weight.T for each in windows]
        return [ResizedMap(StoredMap(each.permute(2, 0, 1)), window, False) for each in small]

    found = labels_by_windows(image, window, stride, logits_of, at_once=2)
    assert max(asked) == 2
    for top in window_starts(height, window[0], stride[0]):
        for left in window_starts(width, window[1], stride[1]):
            place = (slice(top, top + window[0]), slice(left, left + window[1]))
            total[(slice(None), *place)] += logits_of([image[place]])[0].whole()[0]
            count[place] += 1
    expected = (total / count).argmax(0)
    assert len(expected.unique()) > 2
    assert (found == expected.numpy()).mean() > 0.999


def test_one_channel_is_a_probability():
    image = np.zeros((9, 30, 3), np.uint8)
    image[:, 15:] = 200

    def probabilities_of(windows):
        return [StoredMap(torch.from_numpy(each[..., 0] / np.float32(250))[None]) for each in windows]

    found = labels_by_windows(image, (9, 12), (9, 6), probabilities_of, threshold=0.7)
    np.testing.assert_array_equal(found, image[..., 0] > 0)


def peak(height: int) -> dict:
    """Bytes that a child process takes for an image of this height, at most, above what it had before."""
    code = f"""
        import json, resource, numpy as np, torch
        from densevit.inference.windows import labels_by_windows
        from densevit.layers.label_map import ResizedMap, StoredMap
        torch.set_num_threads(1)

        def logits_of(windows):  # 150 classes at a quarter of 128 x 128: 0.6 MB
            small = [torch.from_numpy(each[::4, ::4, :1].astype(np.float32)).permute(2, 0, 1) for each in windows]
            ramp = torch.arange(150.0)[:, None, None] / 150
            return [ResizedMap(StoredMap((each - 99 * ramp).abs()), (128, 128), False) for each in small]

        labels_by_windows(np.zeros((300, 512, 3), np.uint8), (128, 128), (96, 96), logits_of)  # warm
        image = np.broadcast_to(np.arange(512, dtype=np.uint8)[None, :, None], ({height}, 512, 3))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        labels = labels_by_windows(image, (128, 128), (96, 96), logits_of)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(dict(extra=after - before, labels=labels.nbytes, shape=labels.shape)))
    """
    return json.loads(run_forked(code))


def test_memory_does_not_grow_with_the_height():
    used = peak(12000)
    assert used['shape'] == [12000, 512]
    windows = len(window_starts(12000, 128, 96)) * len(window_starts(512, 128, 96))
    everything = windows * 150 * 32 * 32 * 4  # 390 MB: the logits of all windows, as small as they are
    # two rows of windows, 6 MB, were there already when it was warmed up; what is new is the labels, 6 MB, and what the
    # heap of a young process wastes: 5 to 31 MB, whatever the height
    assert used['extra'] - used['labels'] < everything / 8
