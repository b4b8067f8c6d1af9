"""mmcv's compiled operators ``nms`` and ``roi_align``, computed by torchvision's.

:class:`densevit.compat.finder.OpsFinder` serves this file as the module ``mmcv._ext``. Names and arguments
are those of mmcv 2.x, as ``mmcv/ops/nms.py`` and ``mmcv/ops/roi_align.py`` call them (``pybind.cpp`` in
https://github.com/open-mmlab/mmcv/tree/v2.2.0/mmcv/ops/csrc/pytorch). Training and inference of Mask
R-CNN call nothing else, UPerNet calls none. Any other name is a function that raises: ``import mmcv.ops``
asks for about 110.

Differences to the compiled mmcv: boxes of equal score keep their order (mmcv's sort is unstable), float16 and
bfloat16 are computed in float32 on every device, float64 works, and a RoI with negative size is not an error.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import torch
from torch import Tensor

_torchvision: SimpleNamespace | None = None


def load_torchvision_ops() -> SimpleNamespace:
    """torchvision's compiled ``nms``, ``roi_align`` and ``_roi_align_backward``; imports torchvision once.

    Raises:
        RuntimeError: torchvision is absent, or its operators do not load into this torch.
    """
    global _torchvision
    if _torchvision is None:
        try:
            import torchvision  # noqa: F401  (registers the operators)

            names = ('nms', 'roi_align', '_roi_align_backward')
            _torchvision = SimpleNamespace(**{name: getattr(torch.ops.torchvision, name) for name in names})
        except Exception as error:  # a mismatch is an ImportError, OSError, RuntimeError or AttributeError
            raise RuntimeError(
                "torchvision's operators, which stand in for mmcv's, do not load into torch "
                f'{torch.__version__} ({type(error).__name__}: {error}); install the torchvision release '
                'made for this torch, from the same package index: https://github.com/pytorch/vision#installation'
            ) from error
    return _torchvision


def _working_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest dtype of the tensors, float32 at least for floating point ones."""
    dtype = tensors[0].dtype
    for tensor in tensors[1:]:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes that greedy non-maximum suppression keeps, best score first.

    Args:
        boxes: (N, 4), x1 y1 x2 y2 in pixels.
        scores: (N,).
        iou_threshold: a box that overlaps a better one by more than this IoU is dropped.
        offset: a box is ``x2 - x1 + offset`` wide; 1 where x2 is the last pixel inside the box, otherwise 0.

    Returns:
        (K,) int64.
    """
    dtype = _working_dtype(boxes, scores)
    boxes, scores = boxes.to(dtype), scores.to(dtype)
    if offset:
        boxes = torch.cat((boxes[:, :2], boxes[:, 2:] + offset), dim=1)
    return load_torchvision_ops().nms(boxes, scores, iou_threshold)


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Sample a feature map inside each RoI and write the averages to ``output``.

    Args:
        input: (B, C, H, W).
        rois: (R, 5), index of the image in the batch, then x1 y1 x2 y2 in pixels of the image.
        output: (R, C, aligned_height, aligned_width), overwritten.
        argmax_y, argmax_x: unused, they belong to maximum pooling.
        spatial_scale: pixels of the image times this are pixels of the map.
        sampling_ratio: samples per bin and axis; 0 takes as many as a bin has pixels.
        pool_mode: 1, average; 0, maximum, is refused.
        aligned: shift by half a pixel, so that pixel centres are at integer coordinates.

    Raises:
        NotImplementedError: maximum pooling.
    """
    _refuse_max_pooling(pool_mode)
    dtype = _working_dtype(input)
    output.copy_(
        load_torchvision_ops().roi_align(
            input.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            sampling_ratio,
            aligned,
        )
    )


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Write the gradient of :func:`roi_align_forward` with respect to its ``input`` to ``grad_input``.

    ``grad_output`` has the shape of ``output``, ``grad_input`` that of ``input``; the rest is as there.

    Raises:
        NotImplementedError: maximum pooling.
    """
    _refuse_max_pooling(pool_mode)
    dtype = _working_dtype(grad_output)
    grad_input.copy_(
        load_torchvision_ops()._roi_align_backward(
            grad_output.to(dtype),
            rois.to(dtype),
            spatial_scale,
            aligned_height,
            aligned_width,
            *grad_input.shape,
            sampling_ratio,
            aligned,
        )
    )


def get_compiler_version() -> str:
    """What ``mmcv.utils.collect_env`` reports as the compiler of mmcv's operators."""
    return 'n/a (operators of torchvision, by densevit)'


def get_compiling_cuda_version() -> str:
    """What ``mmcv.utils.collect_env`` reports as the CUDA of mmcv's operators."""
    return 'n/a (operators of torchvision, by densevit)'


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """For every operator of mmcv that is not above: a function that says so when it is called."""
    if name.startswith('_'):  # what the import system, inspect and copy ask for
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')

    def missing_operator(*args: Any, **kwargs: Any) -> NoReturn:
        _raise_missing(f'operator {name!r}')

    missing_operator.__name__ = missing_operator.__qualname__ = name
    return missing_operator


def _refuse_max_pooling(pool_mode: int) -> None:
    if pool_mode != 1:
        _raise_missing("operator 'roi_align' with pool_mode='max' (pool_mode='avg' works)")


def _raise_missing(what: str) -> NoReturn:
    raise NotImplementedError(
        f"mmcv's {what} needs an mmcv with compiled operators, and this one has none (densevit supplies nms "
        'and roi_align from torchvision; UPerNet and Mask R-CNN need no more); with torch and a C++ compiler '
        'in place, `pip install --force-reinstall --no-deps --no-cache-dir --no-build-isolation --no-binary '
        'onedl-mmcv onedl-mmcv` builds one.'
    )
