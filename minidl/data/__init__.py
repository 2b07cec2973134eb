"""Data: datasets, loading, transforms of images and text."""

from minidl.files import CorruptFileError

from .cifar import CIFAR10, CIFAR100
from .dataset import ArrayDataset, ConcatDataset, Dataset, Subset, TensorDataset, random_split
from .digits import Digits
from .folder import ImageFolder
from .loader import DataLoader, collate
from .mnist import MNIST, FashionMNIST
from .rng import SampleStreams, sample_rng, sample_streams
from .sampler import (
    BatchSampler,
    ContiguousBatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from .shakespeare import TinyShakespeare
from .text import BPETokenizer, CharTokenizer, TextWindows, Vocab, pad_sequences
from .transforms import (
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    Cutout,
    MixUp,
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    ToArray,
)

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "ArrayDataset",
    "BPETokenizer",
    "BatchSampler",
    "CenterCrop",
    "CharTokenizer",
    "ColorJitter",
    "Compose",
    "ConcatDataset",
    "ContiguousBatchSampler",
    "CorruptFileError",
    "CutMix",
    "Cutout",
    "DataLoader",
    "Dataset",
    "Digits",
    "FashionMNIST",
    "ImageFolder",
    "MixUp",
    "Normalize",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "RandomRotation",
    "RandomSampler",
    "RandomVerticalFlip",
    "Resize",
    "SampleStreams",
    "Sampler",
    "SequentialSampler",
    "Subset",
    "SubsetRandomSampler",
    "TensorDataset",
    "TextWindows",
    "TinyShakespeare",
    "ToArray",
    "Vocab",
    "WeightedRandomSampler",
    "collate",
    "pad_sequences",
    "random_split",
    "sample_rng",
    "sample_streams",
]
