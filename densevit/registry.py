"""The registries of densevit: children of mmengine's, scope ``densevit``.

``type='densevit.PatchConvNet'`` in any mmengine, mmsegmentation or mmdetection config leads mmengine here: it
imports ``<scope>.registry`` when it meets a scope and asks the child registry for the name. :data:`PARTS` then says
which one module holds that name, and only this module is imported. So a part that needs an absent package neither
costs nor breaks anything until somebody asks for it, and no config needs ``custom_imports``.

(mmdetection imports its own models before it looks at a scope; without compiled mmcv ops ``import densevit`` must
come before that, see :mod:`densevit.compat`.)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

try:
    from mmengine import registry as mmengine_registry
    from mmengine.registry import Registry
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "densevit's models are mmengine modules, and mmengine is not installed: "
        "`pip install 'densevit[mm]'`, or, beside an existing mm stack, `pip install mmengine`.",
        name=error.name,
    ) from error

from .errors import UserError, did_you_mean

__all__ = [
    'FUNCTIONS',
    'HOOKS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'OPTIM_WRAPPER_CONSTRUCTORS',
    'PARTS',
    'PartRegistry',
    'WEIGHT_INITIALIZERS',
]

# Every public part and the module that defines it; `densevit.X` is found through the same tables.
PARTS: dict[str, str] = {
    'PatchConvNet': 'densevit.backbones.patchconvnet',
    'PyramidVisionTransformer': 'densevit.backbones.pvt',
    'PyramidVisionTransformerV2': 'densevit.backbones.pvt',
    'SwinTransformer': 'densevit.backbones.swin',
    'SwinTransformerV2': 'densevit.backbones.swin_v2',
    'CvT': 'densevit.backbones.cvt',
    'TimmBackbone': 'densevit.backbones.timm_backbone',
    'ImageClassifier': 'densevit.classifiers.image_classifier',
    'LearnedAggregation': 'densevit.classifiers.image_classifier',
    'ColumnarPyramid': 'densevit.necks.columnar_pyramid',
    'EncoderDecoder': 'densevit.segmentation.encoder_decoder',
    'UPerHead': 'densevit.segmentation.uper_head',
    'FCNHead': 'densevit.segmentation.heads',
    'FPNHead': 'densevit.segmentation.heads',
    'MaskRCNN': 'densevit.detection.detectors',
    'CascadeRCNN': 'densevit.detection.detectors',
    'RetinaNet': 'densevit.detection.detectors',
    'ClassAttentionHead': 'densevit.heads.class_attention',
    'FPN': 'densevit.detection.fpn',
    'RPNHead': 'densevit.detection.rpn_head',
    'StandardRoIHead': 'densevit.detection.roi_heads',
    'CascadeRoIHead': 'densevit.detection.roi_heads',
    'SingleRoIExtractor': 'densevit.detection.roi_extractor',
    'ConvFCBBoxHead': 'densevit.detection.box_heads',
    'Shared2FCBBoxHead': 'densevit.detection.box_heads',
    'Shared4Conv1FCBBoxHead': 'densevit.detection.box_heads',
    'FCNMaskHead': 'densevit.detection.mask_head',
    'IoUMetric': 'densevit.evaluation.iou',
    'CocoMetric': 'densevit.evaluation.coco',
    'PointingGame': 'densevit.evaluation.pointing',
    'ValLoop': 'densevit.engine.loops',
    'EpochBasedTrainLoop': 'densevit.engine.train_loops',
    'IterBasedTrainLoop': 'densevit.engine.train_loops',
    'CheckpointHook': 'densevit.engine.checkpoint_hook',
    'BF16OptimWrapper': 'densevit.engine.amp',
    'GroupedOptimWrapperConstructor': 'densevit.engine.optim',
    'DetTTAModel': 'densevit.evaluation.tta',
    'PictureHook': 'densevit.engine.pictures',
    'ReportHook': 'densevit.engine.report_hook',
    'BrokenSamplesHook': 'densevit.engine.guards',
    'FiniteLossHook': 'densevit.engine.guards',
    'SameBuffersHook': 'densevit.engine.distributed',
    'FullyShardedModel': 'densevit.engine.fsdp',
    'Pretrained': 'densevit.checkpoints.pretrained',
}

# What is called, not built: no config can name it.
FUNCTIONS: dict[str, str] = {
    'fold': 'densevit.inference.folding',
    'unfold': 'densevit.inference.folding',
    'Predictor': 'densevit.inference.predictor',
}

# What to install for a module that a part needs and does not find.
_DISTRIBUTIONS = {
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmseg': 'onedl-mmsegmentation',
    'faster_coco_eval': 'faster-coco-eval',
}


def import_part(name: str) -> Any:
    """The class or function that the public ``name`` stands for.

    Raises:
        UserError: the module that defines it needs a package that is not installed.
    """
    module = {**PARTS, **FUNCTIONS}[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        missing = (error.name or '').partition('.')[0]
        if missing in ('', 'densevit'):
            raise
        distribution = _DISTRIBUTIONS.get(missing, missing)
        raise UserError(
            f'densevit.{name} needs the package {missing!r}, which is not installed: `pip install {distribution}`.'
        ) from error


class PartRegistry(Registry):
    """A registry that imports a part when it is asked for, by :data:`PARTS`."""

    def __init__(self, name: str, parent: Registry) -> None:
        super().__init__(name, parent=parent, scope='densevit')

    def get(self, key: str) -> Any:
        """The class registered as ``key``, with or without its scope.

        Raises:
            UserError: it needs a package that is absent, or densevit has nothing of that name.
        """
        scope, name = self.split_scope_key(key)
        ours = scope in (None, self.scope)
        if ours and name in PARTS and name not in self.module_dict:
            import_part(name)
        found = super().get(key)
        if found is None and ours:
            raise UserError(
                f'densevit has no {self.name} called {name!r}{did_you_mean(name, PARTS) or "."} '
                f'Its parts are: {", ".join(sorted(PARTS))}.'
            )
        return found


MODELS = PartRegistry('model', parent=mmengine_registry.MODELS)
MODEL_WRAPPERS = PartRegistry('model wrapper', parent=mmengine_registry.MODEL_WRAPPERS)
METRICS = PartRegistry('metric', parent=mmengine_registry.METRICS)
LOOPS = PartRegistry('loop', parent=mmengine_registry.LOOPS)
HOOKS = PartRegistry('hook', parent=mmengine_registry.HOOKS)
OPTIM_WRAPPERS = PartRegistry('optim_wrapper', parent=mmengine_registry.OPTIM_WRAPPERS)
OPTIM_WRAPPER_CONSTRUCTORS = PartRegistry(
    'optimizer wrapper constructor', parent=mmengine_registry.OPTIM_WRAPPER_CONSTRUCTORS
)
WEIGHT_INITIALIZERS = PartRegistry('weight initializer', parent=mmengine_registry.WEIGHT_INITIALIZERS)
