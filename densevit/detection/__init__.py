"""Two-stage detectors of mmdetection, faster: the same configs, parameters and numbers.

``type='densevit.MaskRCNN'`` (or ``CascadeRCNN``) in the place of mmdetection's exchanges all parts that have a faster
twin here; each of these can be used alone as well, by its own ``type``.
"""
