import colorsys
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minidl.data import (
    ArrayDataset,
    CenterCrop,
    ColorJitter,
    Compose,
    CutMix,
    Cutout,
    DataLoader,
    MixUp,
    Normalize,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomRotation,
    RandomVerticalFlip,
    Resize,
    SampleStreams,
    ToArray,
    sample_rng,
)
from minidl.data.transforms import one_hot
from minidl.random import Generator, manual_seed

rng = np.random.default_rng(0)
UINT8 = rng.integers(0, 256, (40, 3, 12, 10), dtype=np.uint8)
FLOAT = (UINT8 / 255).astype(np.float32)


def streams(keys, seed=0):
    return SampleStreams(Generator(seed), keys)


ALL = [
    RandomHorizontalFlip(),
    RandomVerticalFlip(),
    RandomCrop(8, padding=2),
    RandomCrop((12, 10), padding=4, padding_mode="reflect"),
    CenterCrop(7),
    CenterCrop(20),
    Resize(6),
    Resize((15, 20)),
    RandomResizedCrop(9),
    RandomRotation(30),
    ColorJitter(0.4, 0.4, 0.4, 0.1),
    Cutout(4),
    RandomErasing(0.7),
    ToArray(),
    Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    Compose([RandomCrop(8, padding=2), RandomHorizontalFlip(), lambda x: x[:, ::-1], Normalize((0.5,), (0.25,))]),
]


@pytest.mark.parametrize("images", [UINT8, FLOAT], ids=["uint8", "float32"])
@pytest.mark.parametrize("transform", ALL, ids=lambda t: type(t).__name__)
def test_contract(transform, images):
    """An image comes out the same in any batch; inputs stay; dtypes are kept; no two images share their decisions."""
    before = images.copy()
    whole = transform.batch(images, streams(np.arange(40)))
    np.testing.assert_array_equal(images, before)
    assert whole.dtype == (np.float32 if isinstance(transform, (ToArray, Normalize, Compose)) else images.dtype)
    keys = np.array([31, 2, 17])
    np.testing.assert_array_equal(transform.batch(images[keys], streams(keys)), whole[keys])
    assert transform.batch(images[:0], streams([])).shape == (0, *whole.shape[1:])
    strided = np.repeat(images, 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(transform.batch(strided, streams(np.arange(40))), whole)
    single = transform(images[0], Generator(5))
    assert single.shape == whole.shape[1:] and single.dtype == whole.dtype
    np.testing.assert_array_equal(single, transform(images[0], Generator(5)))
    if "Random" in type(transform).__name__ or isinstance(transform, (ColorJitter, Cutout)):
        alike = transform.batch(np.repeat(images[:1], 40, axis=0), streams(np.arange(40)))
        assert len({image.tobytes() for image in alike}) > 1
        assert len({transform(images[0], Generator(seed)).tobytes() for seed in range(20)}) > 1
    with pytest.raises((ValueError, TypeError)):
        transform.batch(images[0], streams(np.arange(3)))


def test_successive_calls_take_new_numbers():
    flip = RandomHorizontalFlip()
    manual_seed(1)
    first = [flip(FLOAT[0])[0, 0, 0] for _ in range(32)]
    manual_seed(1)
    assert [flip(FLOAT[0])[0, 0, 0] for _ in range(32)] == first and len(set(first)) == 2


def test_transforms_called_in_getitem_use_the_samples_stream():
    crop, flip = RandomCrop(8, padding=2), RandomHorizontalFlip()

    class Data:
        def __len__(self):
            return 40

        def __getitem__(self, i):
            return flip(crop(FLOAT[i]))

    first = np.concatenate(list(DataLoader(Data(), 7, seed=1)))
    manual_seed(123)
    np.testing.assert_array_equal(np.concatenate(list(DataLoader(Data(), 9, seed=1, num_workers=2))), first)


def test_members_of_compose_are_independent():
    both = Compose([RandomHorizontalFlip(), RandomVerticalFlip()])
    image = np.array([[[1, 2], [3, 4]]], np.float32)
    corners = both.batch(np.repeat(image[None], 400, axis=0), streams(np.arange(400)))[:, 0, 0, 0]
    assert all(70 < n < 130 for n in np.bincount(corners.astype(int), minlength=5)[1:])


def test_flip():
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(UINT8[0]), UINT8[0, :, :, ::-1])
    np.testing.assert_array_equal(RandomVerticalFlip(1)(UINT8[0]), UINT8[0, :, ::-1])
    np.testing.assert_array_equal(RandomVerticalFlip(0)(UINT8[0]), UINT8[0])
    flipped = RandomHorizontalFlip(0.25).batch(np.repeat(UINT8[:1], 2000, 0), streams(np.arange(2000)))
    assert (flipped == UINT8[0, :, :, ::-1]).all((1, 2, 3)).mean() == pytest.approx(0.25, abs=0.04)


def test_random_crop_is_every_window():
    image = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4)
    padded = np.pad(image, [(0, 0), (1, 1), (1, 1)], constant_values=-1)
    windows = {padded[:, i : i + 3, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    crops = RandomCrop((3, 4), padding=1, fill=-1).batch(np.repeat(image[None], 300, axis=0), streams(np.arange(300)))
    assert {crop.tobytes() for crop in crops} == windows
    reflected = RandomCrop((3, 4), padding=1, padding_mode="reflect").batch(image[None], streams([4]))
    assert reflected.min() >= 1
    with pytest.raises(ValueError, match=r"cannot cut \(13, 13\)"):
        RandomCrop(13)(UINT8[0])


@given(h=st.integers(1, 9), w=st.integers(1, 9), size=st.tuples(st.integers(1, 12), st.integers(1, 12)))
@settings(deadline=None, max_examples=40)
def test_center_crop(h, w, size):
    image = np.arange(1, h * w + 1, dtype=np.float32).reshape(1, h, w)
    result = CenterCrop(size)(image)
    assert result.shape == (1, *size)
    assert np.count_nonzero(result) == min(h, size[0]) * min(w, size[1])


def test_to_array():
    image = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
    expected = (image / 255).astype(np.float32).transpose(2, 0, 1)
    np.testing.assert_allclose(ToArray()(image), expected, rtol=1e-6)
    np.testing.assert_allclose(ToArray()(image.transpose(2, 0, 1)), expected, rtol=1e-6)
    np.testing.assert_allclose(ToArray().batch(image[None], streams([0]))[0], expected, rtol=1e-6)
    assert ToArray()(image).flags.c_contiguous
    np.testing.assert_allclose(ToArray()(image[:, :, 0]), expected[:1], rtol=1e-6)
    np.testing.assert_array_equal(ToArray()(expected.astype(np.float64)), expected)
    ambiguous = np.zeros((3, 5, 4), np.uint8)
    with pytest.raises(ValueError, match="cannot tell the layout"):
        ToArray()(ambiguous)
    assert ToArray("HWC")(ambiguous).shape == (4, 3, 5) and ToArray("CHW")(ambiguous).shape == (3, 5, 4)
    with pytest.raises(TypeError, match="int64"):
        ToArray()(np.zeros((3, 5, 5), np.int64))


def test_normalize():
    mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.4])
    expected = (UINT8 / 255 - mean.reshape(3, 1, 1)) / std.reshape(3, 1, 1)
    for images in (UINT8, FLOAT, UINT8 / 255):
        result = Normalize(mean, std).batch(images, streams(np.arange(40)))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="2 means"):
        Normalize((0, 0), (1, 1))(UINT8[0])
    with pytest.raises(ValueError, match="std"):
        Normalize((0.5,), (0,))
    with pytest.raises(TypeError, match="int64"):
        Normalize((0.5,), (1,))(UINT8[0].astype(np.int64))


@pytest.mark.parametrize("size", [(5, 7), (24, 30), (12, 4), (1, 1), (12, 10)])
def test_resize_equals_pillows(size):
    Image = pytest.importorskip("PIL.Image", reason="Pillow's resize is compared with")
    smooth = np.cumsum(rng.integers(0, 20, (12, 10, 3)), axis=0).astype(np.uint8)
    for image in (smooth, UINT8[0].transpose(1, 2, 0)):
        wanted = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        result = Resize(size)(image.transpose(2, 0, 1))
        # Pillow rounds to 8 bits between its two passes.
        assert np.abs(result.astype(int) - wanted).max() <= 1
    single = Image.fromarray(FLOAT[0, 0]).resize(size[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(Resize(size)(FLOAT[0])[0], np.asarray(single), rtol=1e-5, atol=1e-6)


def test_resize_shorter_side():
    assert Resize(6)(UINT8[0]).shape == (3, 7, 6)
    assert Resize(20)(UINT8[0].transpose(0, 2, 1)).shape == (3, 20, 24)


def test_random_resized_crop():
    whole = RandomResizedCrop((6, 5), scale=(1, 1), ratio=(10 / 12, 10 / 12))
    np.testing.assert_array_equal(whole(UINT8[0]), Resize((6, 5))(UINT8[0]))
    # No box of this aspect ratio fits: the largest middle part is taken.
    never = RandomResizedCrop((2, 8), scale=(1, 1), ratio=(4, 4))
    np.testing.assert_array_equal(never(UINT8[0]), Resize((2, 8))(UINT8[0, :, 5:7]))
    ramp = np.broadcast_to(np.arange(30, dtype=np.float32), (1, 30, 30))
    crops = RandomResizedCrop(30, scale=(0.1, 0.5)).batch(np.repeat(ramp[None], 200, 0), streams(np.arange(200)))
    widths = crops[:, 0, 0, -1] - crops[:, 0, 0, 0]
    assert 5 < widths.min() < 12 and 18 < widths.max() < 26


def test_rotation():
    image = FLOAT[0, :, :10]
    np.testing.assert_allclose(RandomRotation((90, 90))(image), np.rot90(image, axes=(1, 2)), atol=1e-6)
    np.testing.assert_allclose(RandomRotation((180, 180))(image), image[:, ::-1, ::-1], atol=1e-6)
    corner = RandomRotation((45, 45), fill=0.5)(np.ones((1, 11, 11), np.float32))
    assert corner[0, 0, 0] == 0.5 and corner[0, 5, 5] == 1
    angles = RandomRotation(10).batch(np.repeat(image[None], 50, 0), streams(np.arange(50)))
    assert len({a.tobytes() for a in angles}) == 50


def test_rotation_equals_pillows():
    Image = pytest.importorskip("PIL.Image", reason="Pillow's rotation is compared with")
    y, x = np.mgrid[:21, :21].astype(np.float32)
    image = np.sin(x / 4) + np.cos(y / 5)
    wanted = np.asarray(Image.fromarray(image).rotate(20, Image.Resampling.BILINEAR))
    np.testing.assert_allclose(RandomRotation((20, 20))(image[None])[0, 5:-5, 5:-5], wanted[5:-5, 5:-5], atol=0.02)


def test_color_jitter_parts_equal_pillows():
    ImageEnhance = pytest.importorskip("PIL.ImageEnhance", reason="Pillow's enhancers are compared with")
    from PIL import Image

    picture = Image.fromarray(UINT8[0].transpose(1, 2, 0))
    for i, (enhance, option) in enumerate(
        [
            (ImageEnhance.Brightness, "brightness"),
            (ImageEnhance.Contrast, "contrast"),
            (ImageEnhance.Color, "saturation"),
        ]
    ):
        for key in range(5):
            one = streams([key])
            factor = 0.4 + float(one.uniform(4)[0, i]) * 1.2
            wanted = np.asarray(enhance(picture).enhance(factor)).transpose(2, 0, 1)
            result = ColorJitter(**{option: 0.6}).batch(UINT8[:1], one)[0]
            assert np.abs(result.astype(int) - wanted).max() <= 2


def test_color_jitter_hue():
    one = streams([3])
    shift = (float(one.uniform(4)[0, 3]) * 2 - 1) * 0.5
    grey_and_black = np.zeros((1, 3, 1, 2), np.float32)
    grey_and_black[..., 0] = 0.4
    np.testing.assert_allclose(ColorJitter(hue=0.5).batch(grey_and_black, one), grey_and_black, atol=1e-6)
    result = ColorJitter(hue=0.5).batch(FLOAT[:1], one)[0]
    for y in range(12):
        for x in range(10):
            h, s, v = colorsys.rgb_to_hsv(*FLOAT[0, :, y, x].astype(float))
            np.testing.assert_allclose(result[:, y, x], colorsys.hsv_to_rgb((h + shift) % 1, s, v), atol=1e-5)


def test_color_jitter_of_grey_images():
    assert ColorJitter(0.5, 0.5).batch(FLOAT[:2, :1], streams([0, 1])).shape == (2, 1, 12, 10)
    with pytest.raises(ValueError, match="RGB"):
        ColorJitter(saturation=0.5)(FLOAT[0, :1])


def test_cutout():
    ones = np.ones((300, 2, 12, 10), np.float32)
    cut = Cutout(4, fill=-1).batch(ones, streams(np.arange(300)))
    holes = (cut == -1).sum((2, 3))
    assert holes.max() == 16 and holes.min() >= 4 and (holes[:, 0] == holes[:, 1]).all()
    assert ((cut == -1) | (cut == 1)).all()
    assert (cut == -1).any(0).all()  # every pixel can be hit


def test_random_erasing():
    ones = np.ones((500, 1, 20, 20), np.float32)
    erased = RandomErasing(0.5, scale=(0.1, 0.2), ratio=(0.5, 2)).batch(ones, streams(np.arange(500)))
    holes = (erased == 0).sum((1, 2, 3))
    assert np.mean(holes > 0) == pytest.approx(0.5, abs=0.08)
    assert holes[holes > 0].min() >= 34 and holes.max() <= 90
    assert RandomErasing(0)(ones[0]).min() == 1 and RandomErasing(1)(ones[0]).min() == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mixup(dtype):
    images, labels = FLOAT[:8].astype(dtype), np.array([0, 1, 2, 3, 0, 1, 2, 3])
    mixed, soft = MixUp(4, alpha=1.0)((images, labels), Generator(3))
    assert mixed.dtype == dtype and soft.dtype == np.float32 and soft.shape == (8, 4)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-6)
    from scipy.special import betaincinv

    draws = Generator(3)
    weight = float(betaincinv(1.0, 1.0, float(draws.uniform(dtype=np.float64))))
    partner = draws.permutation(8)
    np.testing.assert_allclose(mixed, weight * images + (1 - weight) * images[partner], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(soft, weight * np.eye(4)[labels] + (1 - weight) * np.eye(4)[labels[partner]], rtol=1e-5)


def test_mixup_weights_follow_beta():
    images, labels = np.zeros((2, 1, 1, 1), np.float32), np.array([0, 1])
    tops = np.array([MixUp(2, 0.4)((images, labels), Generator(s))[1].max() for s in range(400)])
    # E max(w, 1 - w) for w of Beta(0.4, 0.4), where the partner is oneself half of the time: then it is 1.
    w = np.random.default_rng(0).beta(0.4, 0.4, 100000)
    assert tops.mean() == pytest.approx(0.5 + 0.5 * np.maximum(w, 1 - w).mean(), abs=0.03)


def test_cutmix_labels_count_pixels():
    labels = np.arange(6)
    images = np.broadcast_to(labels.reshape(6, 1, 1, 1), (6, 3, 12, 10)).astype(np.float32)
    areas = set()
    for seed in range(30):
        mixed, soft = CutMix(6)((images, labels), Generator(seed))
        for image, row in zip(mixed, soft, strict=True):
            share = np.array([(image[0] == c).mean() for c in range(6)])
            np.testing.assert_allclose(row, share, atol=1e-6)
            areas.add(round(float(row.max()), 3))
        assert (mixed == mixed[:, :1]).all()
    assert len(areas) > 10


def test_mixup_in_a_loader():
    data = ArrayDataset(UINT8, np.arange(40) % 5, transform=ToArray())
    loader = DataLoader(data, 16, shuffle=True, seed=0, batch_transform=CutMix(5), num_workers=2)
    images, soft = next(iter(loader))
    assert images.shape == (16, 3, 12, 10) and soft.shape == (16, 5) and (soft.max(1) < 1).any()
    mixed, again = MixUp(5)((images, soft), Generator(0))  # soft labels can be mixed again
    np.testing.assert_allclose(again.sum(1), 1, rtol=1e-6)
    assert mixed.shape == images.shape


def test_mixup_refuses():
    with pytest.raises(TypeError, match="uint8"):
        MixUp(5)((UINT8, np.zeros(40, int)))
    with pytest.raises(ValueError, match=r"0…2.*0…4"):
        MixUp(3)((FLOAT, np.arange(40) % 5))
    with pytest.raises(ValueError, match="integer labels"):
        MixUp(3)((FLOAT, np.zeros(40)))
    with pytest.raises(ValueError, match="alpha"):
        CutMix(3, alpha=0)


def test_one_hot():
    np.testing.assert_array_equal(one_hot(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    assert one_hot(np.zeros(0, int), 3).shape == (0, 3)


def test_pillow_images():
    Image = pytest.importorskip("PIL.Image", reason="it is about Pillow images")
    pixels = UINT8[0].transpose(1, 2, 0)
    picture = Image.fromarray(pixels)
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(picture), UINT8[0, :, :, ::-1])
    np.testing.assert_allclose(ToArray()(picture), FLOAT[0], rtol=1e-6)
    assert ToArray()(picture.convert("L")).shape == (1, 12, 10)
    assert ToArray()(picture.convert("P")).shape == ToArray()(picture.convert("CMYK")).shape == (3, 12, 10)
    # Functions of Pillow images come first.
    pipeline = Compose([lambda im: im.resize((20, 24)), CenterCrop(8), ToArray()])
    assert pipeline(picture).shape == (3, 8, 8)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    np.testing.assert_allclose(ToArray()(Image.open(buffer)), FLOAT[0], rtol=1e-6)


def test_a_transform_of_ones_own():
    def noise(image):
        return image + sample_rng().normal(image.shape)

    data = ArrayDataset(FLOAT, transform=Compose([RandomHorizontalFlip(), noise]))
    first = np.concatenate(list(DataLoader(data, 7, seed=1)))
    np.testing.assert_array_equal(np.concatenate(list(DataLoader(data, 16, seed=1, num_workers=2))), first)
    assert len({float(x) for x in first[:, 0, 0, 0]}) == 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: RandomHorizontalFlip(1.5),
        lambda: RandomErasing(-0.1),
        lambda: RandomErasing(scale=(0.5, 0.2)),
        lambda: RandomResizedCrop(8, ratio=(0, 1)),
        lambda: RandomCrop(0),
        lambda: RandomCrop((1, 2, 3)),
        lambda: RandomCrop(8, padding_mode="wrap"),
        lambda: Resize(-3),
        lambda: ColorJitter(hue=0.6),
        lambda: ColorJitter(brightness=-1),
        lambda: RandomRotation((10, -10)),
        lambda: ToArray("NHWC"),
    ],
)
def test_refused_arguments(make):
    with pytest.raises(ValueError):
        make()
