"""Schedules against PyTorch's values, and exact resume."""

import json
import math

import numpy as np
import pytest

from minidl import as_tensor, optim
from minidl.optim import lr_scheduler as ours

STEPS = 60


def lambda_half(t):
    return 0.5**t


# name, positional and keyword arguments
CASES = [
    ("StepLR", {"step_size": 7, "gamma": 0.5}),
    ("MultiStepLR", {"milestones": [20, 5, 20, 33], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.93}),
    ("ConstantLR", {"factor": 0.25, "total_iters": 9}),
    ("ConstantLR", {}),
    ("LinearLR", {"start_factor": 0.1, "end_factor": 0.8, "total_iters": 12}),
    ("LinearLR", {}),
    ("PolynomialLR", {"total_iters": 30, "power": 2.0}),
    ("PolynomialLR", {}),
    ("CosineAnnealingLR", {"T_max": 10, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 100}),
    ("CosineAnnealingWarmRestarts", {"T_0": 7}),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "T_mult": 2, "eta_min": 0.02}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": STEPS}),
    ("OneCycleLR", {"max_lr": [0.7, 0.3], "epochs": 6, "steps_per_epoch": 10, "anneal_strategy": "linear"}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": 90, "three_phase": True, "pct_start": 0.4, "div_factor": 10.0}),
    ("OneCycleLR", {"max_lr": 0.7, "total_steps": STEPS, "cycle_momentum": False}),
    ("LambdaLR", {"lr_lambda": lambda_half}),
    ("LambdaLR", {"lr_lambda": [lambda_half, lambda t: 1 / (t + 1)]}),
]
IDS = [f"{i}-{name}" for i, (name, _) in enumerate(CASES)]


def our_optimizer(kind="SGD"):
    a, b = (as_tensor(np.ones(2), requires_grad=True) for _ in range(2))
    options = {"momentum": 0.9} if kind == "SGD" else {}
    return getattr(optim, kind)([{"params": [a]}, {"params": [b], "lr": 0.05}], lr=0.4, **options)


def torch_optimizer(torch, kind="SGD"):
    a, b = (torch.ones(2, requires_grad=True) for _ in range(2))
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)([{"params": [a]}, {"params": [b], "lr": 0.05}], lr=0.4, **options)
    optimizer.step()
    return optimizer


def values(optimizer):
    keys = ("lr", "momentum", "betas")
    return [x for g in optimizer.param_groups for k in keys if k in g for x in np.ravel(g[k])]


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="schedules are compared with PyTorch's")


def assert_same(mine, theirs, my_optimizer, their_optimizer, step=lambda s, i: s.step(), steps=STEPS):
    for i in range(steps):
        np.testing.assert_allclose(
            values(my_optimizer), values(their_optimizer), rtol=1e-10, atol=1e-15, err_msg=f"{i}"
        )
        step(mine, i)
        step(theirs, i)
    np.testing.assert_allclose(mine.get_last_lr(), theirs.get_last_lr(), rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*:UserWarning")
def test_values_are_pytorchs(torch, name, options, kind):
    mine, theirs = our_optimizer(kind), torch_optimizer(torch, kind)
    assert_same(
        getattr(ours, name)(mine, **options), getattr(torch.optim.lr_scheduler, name)(theirs, **options), mine, theirs
    )


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_resume_is_exact(name, options):
    whole = our_optimizer()
    schedule = getattr(ours, name)(whole, **options)
    for _ in range(23):
        schedule.step()
    optimizer_state = optim.join_arrays(*optim.split_arrays(whole.state_dict()))
    state = json.loads(json.dumps(schedule.state_dict()))

    resumed = our_optimizer()
    again = getattr(ours, name)(resumed, **options)
    again.load_state_dict(state)
    resumed.load_state_dict(optimizer_state)
    for _ in range(23, STEPS):
        schedule.step()
        again.step()
        assert values(resumed) == values(whole)


@pytest.mark.parametrize(("name", "options"), [c for c in CASES if c[0] != "OneCycleLR"])
def test_last_epoch_continues_from_the_initial_lr(name, options):
    whole = our_optimizer()
    schedule = getattr(ours, name)(whole, **options)
    for _ in range(18):
        schedule.step()
    late = our_optimizer()
    for group in late.param_groups:
        group["initial_lr"] = group["lr"]
    again = getattr(ours, name)(late, **options, last_epoch=17)
    for _ in range(10):
        np.testing.assert_allclose(again.get_last_lr(), schedule.get_last_lr(), rtol=1e-12, atol=1e-15)
        again.step()
        schedule.step()


def test_last_epoch_needs_an_initial_lr():
    with pytest.raises(KeyError, match="initial_lr"):
        ours.StepLR(our_optimizer(), 3, last_epoch=4)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*:UserWarning")
def test_sequential(torch):
    def build(module, optimizer):
        parts = [
            module.LinearLR(optimizer, start_factor=0.2, total_iters=6),
            module.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.001),
            module.ExponentialLR(optimizer, gamma=0.9),
            module.CosineAnnealingWarmRestarts(optimizer, T_0=4, T_mult=2),
        ]
        return module.SequentialLR(optimizer, parts, milestones=[6, 20, 31])

    mine, theirs = our_optimizer(), torch_optimizer(torch)
    assert_same(build(ours, mine), build(torch.optim.lr_scheduler, theirs), mine, theirs)


@pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*before.*:UserWarning")
def test_chained(torch):
    def build(module, optimizer):
        parts = [
            module.ConstantLR(optimizer, factor=0.1, total_iters=8),
            module.ExponentialLR(optimizer, gamma=0.95),
            module.CosineAnnealingLR(optimizer, T_max=15),
            module.StepLR(optimizer, 9),
        ]
        return module.ChainedScheduler(parts)

    mine, theirs = our_optimizer(), torch_optimizer(torch)
    # where the cosine comes to zero, what is left of the product is rounding: compare down to 1e-15
    assert_same(build(ours, mine), build(torch.optim.lr_scheduler, theirs), mine, theirs)


def test_composites_nest_and_resume():
    def build(optimizer):
        warm = ours.LinearLR(optimizer, 0.5, total_iters=3)
        decay = ours.ChainedScheduler(
            [ours.StepLR(optimizer, 2, 0.5), ours.LinearLR(optimizer, 0.25, total_iters=4)], optimizer
        )
        inner = ours.SequentialLR(optimizer, [decay, ours.ConstantLR(optimizer, 0.1, 100)], [8])
        return ours.SequentialLR(optimizer, [warm, inner], [3])

    def curve(t):
        if t < 3:
            return 0.5 + 0.5 * t / 3
        if t < 11:
            s = t - 3
            return 0.5 ** (s // 2) * (0.25 + 0.75 * min(s, 4) / 4)
        return 0.1

    whole = our_optimizer()
    schedule = build(whole)
    for t in range(20):
        np.testing.assert_allclose(schedule.get_last_lr(), [0.4 * curve(t), 0.05 * curve(t)], rtol=1e-12)
        if t == 6:
            optimizer_state, state = whole.state_dict(), json.loads(json.dumps(schedule.state_dict()))
        schedule.step()
    resumed = our_optimizer()
    again = build(resumed)
    again.load_state_dict(state)
    resumed.load_state_dict(optimizer_state)
    for _ in range(6, 20):
        again.step()
    assert again.get_last_lr() == schedule.get_last_lr()


def metrics():
    rng = np.random.default_rng(0)
    return np.exp(-np.arange(STEPS) / 15) + 0.2 * rng.random(STEPS)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 2, "factor": 0.5},
        {"patience": 1, "cooldown": 3, "min_lr": [0.1, 0.01], "factor": 0.6},
        {"patience": 0, "threshold": 0.05, "threshold_mode": "abs"},
        {"mode": "max", "patience": 2},
        {"mode": "max", "patience": 1, "threshold": 0.01, "threshold_mode": "abs", "eps": 0.02},
    ],
)
def test_reduce_on_plateau(torch, options):
    mine, theirs = our_optimizer(), torch_optimizer(torch)
    values_ = metrics()
    values_[30] = math.nan
    assert_same(
        ours.ReduceLROnPlateau(mine, **options),
        torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options),
        mine,
        theirs,
        step=lambda s, i: s.step(values_[i]),
    )


def test_reduce_on_plateau_resumes_and_takes_tensors():
    whole, resumed = our_optimizer(), our_optimizer()
    schedule = ours.ReduceLROnPlateau(whole, patience=1, cooldown=2)
    for m in metrics()[:17]:
        schedule.step(as_tensor(m))
    again = ours.ReduceLROnPlateau(resumed, patience=1, cooldown=2)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    resumed.load_state_dict(whole.state_dict())
    for m in metrics()[17:]:
        schedule.step(m)
        again.step(m)
        assert values(resumed) == values(whole)
    assert whole.param_groups[0]["lr"] < 0.4


def test_fractional_epochs_with_warm_restarts(torch):
    mine, theirs = our_optimizer(), torch_optimizer(torch)
    assert_same(
        ours.CosineAnnealingWarmRestarts(mine, T_0=3, T_mult=2),
        torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(theirs, T_0=3, T_mult=2),
        mine,
        theirs,
        step=lambda s, i: s.step((i + 1) / 4),
    )


def test_warmup_cosine():
    optimizer = our_optimizer()
    schedule = ours.WarmupCosineLR(optimizer, warmup_steps=10, total_steps=50, min_factor=0.1)
    seen = []
    for _ in range(60):
        seen.append(schedule.get_last_lr())
        schedule.step()
    t = np.arange(60)
    cosine = 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * np.minimum((t - 10) / 40, 1)))
    expected = np.where(t < 10, (t + 1) / 11, cosine)
    np.testing.assert_allclose(seen, expected[:, None] * [0.4, 0.05], rtol=1e-12)


def test_a_change_by_hand_stays():
    optimizer = our_optimizer()
    schedule = ours.CosineAnnealingLR(optimizer, T_max=50)
    for group in optimizer.param_groups:
        group["lr"] *= 0.5
    for _ in range(25):
        schedule.step()
    np.testing.assert_allclose(schedule.get_last_lr(), [0.1, 0.0125])


def test_a_group_added_later_joins():
    optimizer = our_optimizer()
    schedule = ours.ExponentialLR(optimizer, 0.5)
    schedule.step()
    optimizer.add_param_group({"params": [as_tensor(np.ones(1), requires_grad=True)], "lr": 1.0})
    schedule.step()
    np.testing.assert_allclose(schedule.get_last_lr(), [0.1, 0.0125, 0.5])


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda o: ours.StepLR(3, 1), TypeError, "Optimizer"),
        (lambda o: ours.ConstantLR(o, factor=0.0), ValueError, "factor"),
        (lambda o: ours.LinearLR(o, start_factor=0.0), ValueError, "start_factor"),
        (lambda o: ours.LambdaLR(o, [lambda_half]), ValueError, "1 values for 2"),
        (lambda o: ours.CosineAnnealingWarmRestarts(o, 0), ValueError, "T_0"),
        (lambda o: ours.OneCycleLR(o, 0.1), ValueError, "total_steps"),
        (lambda o: ours.OneCycleLR(o, 0.1, 10, pct_start=2.0), ValueError, "pct_start"),
        (lambda o: ours.OneCycleLR(o, 0.1, 10, anneal_strategy="no"), ValueError, "'no'"),
        (lambda o: ours.OneCycleLR(our_optimizer("Adagrad"), 0.1, 10), ValueError, "no momentum"),
        (lambda o: ours.WarmupCosineLR(o, 5, 5), ValueError, "warmup_steps"),
        (lambda o: ours.ReduceLROnPlateau(o, mode="best"), ValueError, "'best'"),
        (lambda o: ours.ReduceLROnPlateau(o, factor=1.0), ValueError, "factor"),
        (lambda o: ours.SequentialLR(o, [ours.StepLR(o, 1)], [3]), ValueError, "milestones"),
        (lambda o: ours.SequentialLR(o, [], []), ValueError, "no scheduler"),
        (lambda o: ours.ChainedScheduler([ours.ReduceLROnPlateau(o)]), TypeError, "ReduceLROnPlateau"),
        (lambda o: ours.ChainedScheduler([ours.StepLR(our_optimizer(), 1)], o), ValueError, "another optimizer"),
        (lambda o: ours.StepLR(o, 2).load_state_dict({"gamma": 1}), ValueError, "another scheduler"),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make(our_optimizer())


OPTIONS = {
    "StepLR": ({"step_size": 2, "gamma": 0.5}, {"step_size": [0, -1, 1.5, True], "gamma": []}),
    "MultiStepLR": ({"milestones": [2], "gamma": 0.5}, {"milestones": [[-1], [1.5]], "gamma": []}),
    "ExponentialLR": ({"gamma": 0.5}, {"gamma": []}),
    "ConstantLR": ({"factor": 0.5, "total_iters": 3}, {"factor": [0, 2], "total_iters": [-1, 1.5]}),
    "LinearLR": (
        {"start_factor": 0.5, "end_factor": 1, "total_iters": 3},
        {"start_factor": [0, 2], "end_factor": [-1, 2], "total_iters": [-1, 1.5]},
    ),
    "PolynomialLR": ({"total_iters": 3, "power": 2}, {"total_iters": [0, -1, 1.5], "power": [-1]}),
    "CosineAnnealingLR": ({"T_max": 3, "eta_min": 0}, {"T_max": [0, -1, 1.5], "eta_min": [-1]}),
    "CosineAnnealingWarmRestarts": (
        {"T_0": 3, "T_mult": 1, "eta_min": 0},
        {"T_0": [0], "T_mult": [0], "eta_min": [-1]},
    ),
    "WarmupCosineLR": (
        {"warmup_steps": 1, "total_steps": 3, "min_factor": 0},
        {"warmup_steps": [-1, 3], "total_steps": [0], "min_factor": [-1, 2]},
    ),
    "OneCycleLR": (
        {"max_lr": 0.1, "total_steps": 9, "pct_start": 0.3, "div_factor": 2, "final_div_factor": 2},
        {"max_lr": [-1], "total_steps": [0, 1.5], "pct_start": [2], "div_factor": [0], "final_div_factor": [0]},
    ),
    "ReduceLROnPlateau": (
        {"factor": 0.5, "patience": 1, "threshold": 0, "cooldown": 0, "min_lr": 0, "eps": 0},
        {"factor": [1], "patience": [-1], "threshold": [-1], "cooldown": [-1], "min_lr": [-1], "eps": [-1]},
    ),
}


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (name, option, value)
        for name, (_, bad) in OPTIONS.items()
        for option, values in bad.items()
        for value in ([[math.nan]] if option == "milestones" else [math.nan, math.inf, "x"]) + values
    ],
)
def test_options_out_of_range_are_named(name, option, value):
    make, (good, _) = getattr(ours, name), OPTIONS[name]
    scheduler = make(our_optimizer(), **good)
    for _ in range(3):
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    with pytest.raises(ValueError, match=f"{name}: (a )?{option.removesuffix('s')}"):
        make(our_optimizer(), **{**good, option: value})


@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_one_cycle_of_any_length(steps):
    """Also where its way up or down has no step at all."""
    for share in (0.0, 1 / steps, 0.5, 1.0):
        optimizer = our_optimizer()
        schedule = ours.OneCycleLR(optimizer, 0.1, total_steps=steps, pct_start=share)
        for _ in range(steps):
            assert 0 < optimizer.param_groups[0]["lr"] <= 0.1 + 1e-12
            schedule.step()


def test_one_cycle_ends():
    schedule = ours.OneCycleLR(our_optimizer(), 0.1, total_steps=3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="schedule of 3 steps"):
        schedule.step()
