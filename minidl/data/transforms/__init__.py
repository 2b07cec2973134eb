"""Image transforms, for one image or a whole batch.

**Images** are arrays of shape (C, H, W), uint8 in 0…255 or floating point in [0, 1]; batches are (N, C, H,
W). Transforms keep the dtype, except for `ToArray` and `Normalize`, which give float32. `transform(image)`
also takes a Pillow image or, in `ToArray`, an (H, W, C) or (H, W) array. While a pipeline is uint8 it moves a
quarter of the bytes: put `ToArray` or `Normalize` (which scales uint8 by itself) last, and what must come
after normalization (`Cutout` with its 0) behind.

**Randomness**: ``transform(image, rng)`` uses the given :class:`minidl.random.Generator`. Without one it uses
:func:`minidl.data.sample_rng`: in a loader the sample's own stream, elsewhere the global generator.
``transform.batch(images, streams)`` takes one stream for each image (:class:`minidl.data.SampleStreams`) and
works on all of them at once; image i comes out the same whatever else is in the batch.

A transform of your own is any function of one image; where it needs random numbers it asks ``sample_rng()``.
With a method ``batch(images, streams)`` as well, it is used on whole batches.
"""

from minidl.data.transforms.base import Compose, Transform, apply_batch, apply_one, as_chw
from minidl.data.transforms.geometry import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
)
from minidl.data.transforms.mixing import CutMix, MixUp, one_hot
from minidl.data.transforms.pixels import ColorJitter, Cutout, Normalize, RandomErasing, ToArray
