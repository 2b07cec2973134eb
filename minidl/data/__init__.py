"""Data: datasets, loading, transforms of images and text."""

from minidl.data.cifar import CIFAR10, CIFAR100
from minidl.data.dataset import ArrayDataset, ConcatDataset, Dataset, Subset, TensorDataset, random_split
from minidl.data.digits import Digits
from minidl.data.folder import ImageFolder
from minidl.data.imagenet import imagenet_classes
from minidl.data.loader import DataLoader, collate
from minidl.data.mnist import MNIST, FashionMNIST
from minidl.data.rng import SampleStreams, sample_rng, sample_streams
from minidl.data.sampler import (
    BatchSampler,
    ContiguousBatchSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from minidl.data.shakespeare import TinyShakespeare
from minidl.data.text import BPETokenizer, CharTokenizer, TextWindows, Vocab, pad_sequences
from minidl.data.transforms import (
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
from minidl.files import CorruptFileError

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
    "imagenet_classes",
    "pad_sequences",
    "random_split",
    "sample_rng",
    "sample_streams",
]
