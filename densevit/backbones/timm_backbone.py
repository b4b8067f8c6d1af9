"""Any model of timm as a backbone, as long as its maps can be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from ..checkpoints import CheckpointError, load_weights
from ..checkpoints.origins import Recognised
from ..registry import MODELS
from .base import Backbone
from .timm_build import build_timm, recompute
from .timm_geometry import create, create_meta, geometry_of, pad, taps
from .timm_layers import restore_activations
from .timm_tables import interpolate_distances, resized_table

__all__ = ['TimmBackbone']

# What names of timm's tensors begin with here; mmsegmentation's wrapper has the same.
PREFIX = 'timm_model.'
# Arguments of timm's models that are an argument here, or have no place here.
_TAKEN = {
    'in_chans': 'give in_channels',
    'out_indices': 'give out_indices beside it',
    'drop_path_rate': 'give drop_path_rate beside it',
    'pretrained': 'give pretrained beside it',
    'checkpoint_path': "give init_cfg=dict(type='densevit.Pretrained', checkpoint=...)",
    'num_classes': 'a backbone has no classifier, leave it out',
    'features_only': 'maps are what a backbone returns, leave it out',
    **dict.fromkeys(
        ('dynamic_img_size', 'dynamic_img_pad', 'strict_img_size', 'always_partition'),
        'images of any size are taken, leave it out',
    ),
}


@MODELS.register_module()
class TimmBackbone(Backbone):
    """A model of timm (Wightman, https://github.com/huggingface/pytorch-image-models) under the contract of
    :class:`Backbone`: contiguous (B, C_i, H_i, W_i) maps of any H x W, with true ``out_channels`` and ``out_strides``.

    What timm's models do with sizes is found out when one is built, by running it on the meta device, and put right:

    * images are zero-padded at the bottom and right where the model would drop a remainder or refuse, and its maps cut
      to ceil(H / stride) x ceil(W / stride) again;
    * a position table for one size (CaiT, PiT) is resampled for every other, bicubically, as timm does it for ViT;
    * MViTv2's relative positions are resampled likewise, linearly, as its own code does it;
    * Swin pads its maps before it shifts windows, and shifts them in every stage, as its dense code and
      :class:`densevit.SwinTransformer`;
    * PiT, whose patches overlap, gets 4 pixels around the image, without which its maps would lack a row and a column;
    * a model whose maps still do not have the size that its strides say, as one that resizes its input, is refused.

    Classifier, final norm and blocks behind the last map are not built; parameters that no map depends on are frozen.
    torch 2.15 cannot compile the resampling of a table for sizes that it leaves open: for ViT, CaiT and PiT take
    ``torch.compile(..., dynamic=False)``.

    Args:
        model_name: as ``timm.list_models()`` has it, with or without the tag of its weights behind a dot.
        out_indices: which of the model's maps to return: blocks of a column (ViT), stages of a hierarchy. None: of a
            column four, at a third, half, two thirds and the end, as XCiT's dense models, for
            :class:`densevit.ColumnarPyramid`; of a hierarchy the maps from stride 4 on.
        pretrained: let timm download the model's weights in ``init_weights()``.
        in_channels: of the images; timm sums or repeats the first layer's weights for others than 3.
        drop_path_rate: where the model has stochastic depth.
        norm_eval: BatchNorm keeps its running statistics in training, as detectors train ResNets.
        model_args: further arguments of timm's model, such as ``dict(img_size=448)``.
        frozen_stages: see :class:`Backbone`; stage n is what the n-th of all maps needs and none before it: 2 freezes
            stem and first layer of a ResNet, whose first map is the stem's.
        with_cp: see :class:`Backbone`; for PiT and Twins timm has no such thing.
        attn_backend: accepted and without effect: how attention is computed is timm's choice.
        init_cfg: see :class:`Backbone`.

    Raises:
        ValueError: timm has no such model or cannot build it, its geometry cannot be trusted, it cannot do what
            ``with_cp`` asks for, or ``model_args`` has what is an argument of its own; the message says why.

    Example:
        >>> maps = TimmBackbone('resnet18')(torch.zeros(1, 3, 67, 53))
        >>> [tuple(m.shape[1:]) for m in maps]
        [(64, 17, 14), (128, 9, 7), (256, 5, 4), (512, 3, 2)]
    """

    def __init__(
        self,
        model_name: str,
        *,
        out_indices: Sequence[int] | None = None,
        pretrained: bool = False,
        in_channels: int = 3,
        drop_path_rate: float = 0.0,
        norm_eval: bool = False,
        model_args: Mapping[str, Any] | None = None,
        frozen_stages: int = -1,
        with_cp: bool = False,
        attn_backend: str = 'auto',
        init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate={drop_path_rate} is outside [0, 1)')
        if in_channels < 1:
            raise ValueError(f'in_channels={in_channels} must be at least 1')
        if not isinstance(pretrained, bool):
            raise ValueError(
                f'pretrained={pretrained!r} is neither True nor False; give a file as '
                "init_cfg=dict(type='densevit.Pretrained', checkpoint=...)"
            )
        geometry = geometry_of(model_name, {**_checked(model_args or {}), 'in_chans': in_channels})
        super().__init__(
            num_stages=len(geometry.channels),
            out_indices=geometry.default_indices if out_indices is None else out_indices,
            frozen_stages=frozen_stages,
            with_cp=with_cp,
            attn_backend=attn_backend,
            init_cfg=init_cfg,
            norm_eval=norm_eval,
        )
        self.model_name, self.pretrained, self.in_channels = model_name, pretrained, in_channels
        self.geometry = geometry
        self.timm_model = build_timm(model_name, geometry, self.out_indices, drop_path_rate)
        # or mmengine would call timm's own init_weights, over what has been loaded
        self.timm_model.is_init = True
        if with_cp:
            recompute(model_name, self.timm_model, geometry, self.out_indices)
        self.out_channels = tuple(geometry.channels[index] for index in self.out_indices)
        self.out_strides = tuple(geometry.strides[index] for index in self.out_indices)
        self.freeze()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Images (B, C, H, W) to maps (B, C_i, ceil(H / stride_i), ceil(W / stride_i)).

        Raises:
            ValueError: images of another number of channels.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f'images of shape {tuple(x.shape)}; expected (B, {self.in_channels}, H, W), '
                f'for others build the backbone with in_channels={x.shape[1] if x.ndim == 4 else "C"}'
            )
        height, width = x.shape[-2:]
        if not len(x):  # which timm's reshapes do not take
            sizes = ((-(-height // stride), -(-width // stride)) for stride in self.out_strides)
            return tuple(
                x.new_zeros(0, channels, *size) for channels, size in zip(self.out_channels, sizes, strict=True)
            )
        padded = pad(x, self.geometry.divisor, self.geometry.around, self.geometry.smallest)
        maps = taps(self.timm_model, padded, self.geometry.resampled, self.out_indices)
        return tuple(
            m[..., : -(-height // stride), : -(-width // stride)].contiguous()
            for m, stride in zip(maps, self.out_strides, strict=True)
        )

    def stages(self) -> Iterator[list[nn.Module | nn.Parameter]]:
        """The stem, then for each map it and all that the map depends on, see :attr:`Geometry.needs`."""
        names = self.geometry.stem
        yield self._parts_of(names)
        for needs in self.geometry.needs[: self.out_indices[-1] + 1]:
            names |= needs
            yield self._parts_of(names)

    def _parts_of(self, names: frozenset[str]) -> list[nn.Module | nn.Parameter]:
        """Parameters, and the modules that have no others."""
        parameters: list[nn.Module | nn.Parameter] = [
            parameter for name, parameter in self.timm_model.named_parameters() if name in names
        ]
        modules = [
            module
            for prefix, module in self.timm_model.named_modules()
            if (own := [name for name, _ in module.named_parameters(prefix)]) and names.issuperset(own)
        ]
        return parameters + modules

    def init_weights(self) -> None:
        """timm initializes when it builds; with ``pretrained``, load its weights, then follow ``init_cfg``.

        Raises:
            CheckpointError: timm has no weights of this model, or cannot get them.
        """
        if self.pretrained and not self.is_init:
            try:
                whole = create(self.model_name, self._arguments_of_weights(), pretrained=True)
            except Exception as error:
                raise CheckpointError(
                    f'timm could not load weights of {self.model_name!r}: {error}; download them elsewhere and give '
                    "the file as init_cfg=dict(type='densevit.Pretrained', checkpoint=...)."
                ) from error
            load_weights(self, whole.state_dict())
        super().init_weights()

    def _arguments_of_weights(self) -> dict[str, Any]:
        """Those of a model that timm's weights fit: it does not resample all tables that we do."""
        resampled = self.geometry.resampled is not None
        return {key: value for key, value in self.geometry.arguments.items() if not (resampled and key == 'img_size')}

    def train(self, mode: bool = True) -> TimmBackbone:
        """Set the mode, see :meth:`Backbone.train`; trainers do so after they have put SyncBN in."""
        restore_activations(self.timm_model)
        super().train(mode)
        return self

    def recognise(self, tensors: Mapping[str, Tensor]) -> Recognised | None:
        """timm's own files: its names, of the whole model or of a part."""
        if not tensors or not all(name in self._whole for name in tensors):
            return None
        return Recognised('timm', {PREFIX + name: tensor for name, tensor in tensors.items()})

    def resized(self, name: str, tensor: Tensor) -> Tensor | None:
        """A position table for the size that this model is built for, see :meth:`Backbone.resized`."""
        own = dict(self.named_parameters()).get(name)
        if own is None or tensor.ndim != own.ndim or tensor.shape == own.shape:
            return None
        if name.endswith(('.rel_pos_h', '.rel_pos_w')) and tensor.shape[1:] == own.shape[1:]:
            return interpolate_distances(tensor, len(own))
        return resized_table(self.timm_model, tensor, own.shape) if name.endswith('.pos_embed') else None

    def is_unbuilt(self, name: str) -> bool:
        """Whatever timm's model has and this one has not: classifier, final norm, blocks behind the last map."""
        return name.startswith(PREFIX) and name.removeprefix(PREFIX) in self._whole

    @cached_property
    def _whole(self) -> frozenset[str]:
        """Names of all of timm's tensors, with a classifier's."""
        return frozenset(create_meta(self.model_name, self.geometry.arguments, num_classes=1000).state_dict())


def _checked(model_args: Mapping[str, Any]) -> Mapping[str, Any]:
    """``model_args``, if they are a mapping without what :class:`TimmBackbone` sets itself."""
    if not isinstance(model_args, Mapping):
        raise ValueError(f'model_args={model_args!r} is no mapping of names to values, such as dict(img_size=448)')
    for name, instead in _TAKEN.items():
        if name in model_args:
            raise ValueError(f'model_args has {name!r}: {instead}.')
    return model_args
