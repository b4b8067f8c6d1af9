"""The map of a whole image from those of windows."""

from __future__ import annotations

from torch import Tensor

__all__ = ['MapOfWindows']


class MapOfWindows:
    """The mean, where windows meet, of their maps, on a grid over the whole image.

    A window that does not begin at a patch of that grid is moved to the next one, by half a patch at most.

    Args:
        window: height and width of the windows in pixels.
        stride: pixels between patches; None: the patches divide a window evenly.
    """

    def __init__(self, window: tuple[int, int], stride: int | None = None) -> None:
        self.window = window
        self.stride = stride
        self._maps: list[tuple[Tensor, int, int]] = []

    def add(self, maps: Tensor, row: int, column: int) -> None:
        """Maps (B, C, h, w) of the window whose upper left pixel this is."""
        # where a backbone drops a remainder, patches at their stride would leave gaps between windows
        top, left = (
            int(start / max(self.stride or 0, pixels / count) + 0.5)
            for start, pixels, count in zip((row, column), self.window, maps.shape[2:])
        )
        self._maps.append((maps, top, left))

    def mean(self) -> Tensor:
        """The map of the image, (B, C, H, W)."""
        first = self._maps[0][0]
        batch, channels, height, width = first.shape
        size = [max(each[axis] for each in self._maps) + count for axis, count in ((1, height), (2, width))]
        total, count = first.new_zeros(batch, channels, *size), first.new_zeros(size)
        for maps, top, left in self._maps:
            total[:, :, top : top + height, left : left + width] += maps
            count[top : top + height, left : left + width] += 1
        return total / count
